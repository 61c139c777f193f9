-- Says in the leader's stream what ALTER TABLE has done, so that followers can do it too: the columns with their
-- numbers and what older rows have in them, and whether rows were rewritten. An error here leaves the DDL alone.
CREATE SCHEMA IF NOT EXISTS walferry;

CREATE OR REPLACE FUNCTION walferry.say_altered() RETURNS event_trigger LANGUAGE plpgsql SET search_path = '' AS $function$
DECLARE
    altered jsonb;
BEGIN
    SELECT pg_catalog.jsonb_build_object('relation', c.oid::bigint, 'columns',
            (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                    'number', a.attnum, 'name', a.attname, 'type_oid', a.atttypid::bigint,
                    'type_modifier', a.atttypmod, 'not_null', a.attnotnull, 'generated', a.attgenerated <> '',
                    'has_default', a.atthasdef OR a.attidentity <> '',
                    'value', CASE WHEN c.relkind <> 'p' THEN (a.attmissingval::text::text[])[1]
                        ELSE (SELECT (l.attmissingval::text::text[])[1]
                            FROM pg_catalog.pg_partition_tree(c.oid) p
                            JOIN pg_catalog.pg_attribute l ON l.attrelid = p.relid AND l.attname = a.attname
                            WHERE p.isleaf LIMIT 1) END) ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            'dropped', COALESCE((SELECT pg_catalog.jsonb_agg(a.attnum ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped), '[]'))
    INTO altered
    FROM pg_catalog.pg_event_trigger_ddl_commands() d
    JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' LIMIT 1;
    IF altered IS NOT NULL THEN
        PERFORM pg_catalog.pg_logical_emit_message(true, 'walferry altered', pg_catalog.convert_to(altered::text, 'UTF8'));
        -- A message is decoded under the LSN of its end, a change under that of its beginning, and what different
        -- subtransactions have under one LSN comes in any order: no change may follow the message at once.
        PERFORM pg_catalog.pg_logical_emit_message(true, 'walferry behind', '');
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'walferry.say_altered: % (%)', SQLERRM, SQLSTATE;
END $function$;

CREATE OR REPLACE FUNCTION walferry.say_rewritten() RETURNS event_trigger LANGUAGE plpgsql SET search_path = '' AS $function$
DECLARE
    rewritten oid := pg_catalog.pg_event_trigger_table_rewrite_oid();
    reason int := pg_catalog.pg_event_trigger_table_rewrite_reason();
    -- A type changed by its default cast: followers can do that, or tell that they cannot.
    plain bool := pg_catalog.current_query() ~* '^\s*alter\s+table\M' AND pg_catalog.current_query() !~* '\musing\M';
BEGIN
    -- 2: columns with a default of its own for each row; 4: columns of another type (event_trigger.h).
    IF reason & 2 <> 0 OR (reason & 4 <> 0 AND NOT plain) THEN
        PERFORM pg_catalog.pg_logical_emit_message(true, 'walferry rewritten', pg_catalog.convert_to(
            pg_catalog.jsonb_build_object('relation',
                COALESCE(pg_catalog.pg_partition_root(rewritten)::oid, rewritten)::bigint)::text, 'UTF8'));
        PERFORM pg_catalog.pg_logical_emit_message(true, 'walferry behind', '');
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'walferry.say_rewritten: % (%)', SQLERRM, SQLSTATE;
END $function$;

DROP EVENT TRIGGER IF EXISTS walferry_altered;
CREATE EVENT TRIGGER walferry_altered ON ddl_command_end WHEN TAG IN ('ALTER TABLE')
    EXECUTE FUNCTION walferry.say_altered();
ALTER EVENT TRIGGER walferry_altered ENABLE ALWAYS;
DROP EVENT TRIGGER IF EXISTS walferry_rewritten;
CREATE EVENT TRIGGER walferry_rewritten ON table_rewrite EXECUTE FUNCTION walferry.say_rewritten();
ALTER EVENT TRIGGER walferry_rewritten ENABLE ALWAYS;
