//! What readers of the follower ask for: how far it is, and waiting until it shows what they wrote.

/// View and function, to be created together with walferry's tables.
///
/// The function looks again and again, each time with a snapshot of its own, as READ COMMITTED gives one to
/// every statement of a volatile function.
pub(super) const LAYOUT: &str = "
CREATE OR REPLACE VIEW walferry.position AS
    SELECT pipeline, sink, CASE WHEN NOT copying THEN applied END AS lsn, timeline, system_id,
        commit_time, updated_at, copying
    FROM walferry.checkpoint;
COMMENT ON VIEW walferry.position IS
    'the follower shows all that the leader committed up to lsn; null while it is copied';
CREATE OR REPLACE FUNCTION walferry.wait_for(
    lsn pg_lsn,
    timeout interval DEFAULT '1 second',
    pipeline text DEFAULT NULL,
    timeline bigint DEFAULT NULL
) RETURNS boolean LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $function$
DECLARE
    until timestamptz := pg_catalog.clock_timestamp() + wait_for.timeout;
    sinks bigint;
    shown pg_lsn;
    of bigint;
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'walferry.wait_for sees nothing new in a % transaction',
                pg_catalog.current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                HINT = 'call it at READ COMMITTED, before the transaction that reads';
    END IF;
    IF wait_for.lsn IS NULL THEN
        RAISE EXCEPTION 'walferry.wait_for: lsn is null'
            USING ERRCODE = 'null_value_not_allowed',
                HINT = 'pass what pg_current_wal_insert_lsn() said on the leader';
    END IF;
    LOOP
        SELECT pg_catalog.count(*), pg_catalog.min(p.lsn), pg_catalog.min(p.timeline)
            INTO sinks, shown, of
            FROM walferry.position p
            WHERE wait_for.pipeline IS NULL OR p.pipeline = wait_for.pipeline;
        IF sinks > 1 THEN
            RAISE EXCEPTION 'walferry.wait_for: % sinks write into this database', sinks
                USING ERRCODE = 'ambiguous_parameter',
                    HINT = 'name the pipeline: walferry.wait_for(lsn, timeout, pipeline)';
        END IF;
        IF of <> wait_for.timeline THEN
            RAISE EXCEPTION 'the follower is on the leader''s timeline %, not on %', of, wait_for.timeline
                USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'read on the leader';
        END IF;
        IF shown >= wait_for.lsn THEN
            RETURN true;
        END IF;
        IF pg_catalog.clock_timestamp() >= until THEN
            RETURN false;
        END IF;
        PERFORM pg_catalog.pg_sleep(0.005);
    END LOOP;
END
$function$;
COMMENT ON FUNCTION walferry.wait_for IS
    'whether the follower shows all that the leader committed up to lsn, waiting for it no longer than timeout';";

/// Whether everything of it is there, for a SELECT.
pub(super) const IS_THERE: &str = "pg_catalog.to_regclass('walferry.position') IS NOT NULL \
    AND pg_catalog.to_regprocedure('walferry.wait_for(pg_lsn,interval,text,bigint)') IS NOT NULL";
