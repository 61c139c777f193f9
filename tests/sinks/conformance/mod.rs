//! The cases that any store must pass, and which store takes which of them.

mod begun_anew;
mod by_age;
mod by_hand;
mod changes;
mod chosen;
mod following;
mod history;
mod kills;
mod large;
mod layout;
mod names;
mod nested;
mod operators;
mod readers;
mod shapes;
mod stream;
mod toast;
mod types;
mod unheld;
pub mod world;

/// The cases of one store: `cases!(name, Store: group, …)`. The groups:
/// - `follower`: keeps the leader's rows and a checkpoint;
/// - `boundaries`: its readers see whole transactions only;
/// - `keyless`: holds tables without a key;
/// - `unheld`: has types that cannot hold every value;
/// - `clickhouse`: what only ClickHouse has: a second mode, Nested, batches by age, types of somebody's choice;
/// - `stream`: shows changes, and keeps nothing.
macro_rules! cases {
    ($name:ident, $store:ty: $($group:ident),+) => {
        mod $name { $(cases!(@ $group $store);)+ }
    };
    (@ follower $store:ty) => {
        cases!(@@ $store: changes a_copied_table_and_what_is_done_to_it_are_equal
            changes random_transactions_leave_equal_tables
            toast unchanged_large_values_stay
            types every_type_arrives_by_every_way
            names any_name_is_held
            names three_hundred_columns_are_held
            shapes columns_follow_the_leader
            shapes rows_that_the_leader_rewrites_unseen_are_copied_anew
            shapes rows_rewritten_while_a_copy_is_loaded_are_copied_anew
            shapes tables_follow_the_leader
            kills a_process_killed_at_any_step_leaves_equal_tables
            shapes another_key_is_followed
            kills a_server_that_is_away_now_and_then_leaves_equal_tables
            kills a_server_killed_under_load_leaves_equal_tables
            large a_transaction_larger_than_a_batch_arrives_and_what_is_rolled_back_does_not
            operators a_second_worker_is_fenced_and_the_tables_are_equal
            operators a_follower_is_rebuilt_and_a_table_copied_anew
            operators a_follower_rebuilt_to_before_a_rewrite_and_resumed_is_equal
            operators rows_of_somebody_else_are_not_touched
            operators a_name_that_is_free_again_may_be_somebody_elses);
    };
    (@ boundaries $store:ty) => {
        cases!(@@ $store: readers a_reader_never_sees_half_a_transaction);
    };
    (@ keyless $store:ty) => {
        cases!(@@ $store: following a_table_without_a_key_is_equal);
    };
    (@ unheld $store:ty) => {
        cases!(@@ $store: unheld what_cannot_be_held_halts_with_a_remedy_that_helps);
    };
    (@ clickhouse $store:ty) => {
        cases!(@@ $store: history every_change_is_a_row
            history a_table_without_a_key_is_kept_here_and_refused_there
            nested arrays_of_one_dotted_name_are_refused_with_a_remedy_that_helps
            begun_anew a_batch_that_is_begun_anew_with_more_changes_leaves_equal_tables
            by_age changes_are_collected_until_a_batch_is_full_or_old
            chosen types_that_somebody_chose_hold_their_values
            chosen a_column_that_is_no_longer_chosen_comes_to_what_the_mapping_says
            layout keys_that_somebody_chose_are_taken_and_the_tables_are_equal
            by_hand columns_that_somebody_made_follow_the_leader
            by_hand a_table_with_another_sorting_key_is_not_taken
            by_hand a_follower_whose_checkpoint_somebody_removed_begins_anew
            by_hand rows_that_a_constraint_of_the_followers_refuses_halt_with_a_remedy_that_helps);
    };
    (@ stream $store:ty) => {
        cases!(@@ $store: stream lines_taken_one_after_the_other_make_the_leaders_rows
            stream every_type_is_shown_exactly);
    };
    (@@ $store:ty: $($module:ident $case:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            super::$module::$case::<$store>().await;
        })+
    };
}

cases!(postgres, crate::postgres::Postgres: follower, boundaries, keyless);
cases!(clickhouse, crate::clickhouse::ClickHouse: follower, unheld, clickhouse);
cases!(mariadb, crate::mariadb::MariaDb: follower, boundaries, keyless, unheld);
cases!(stdout, crate::stdout::Stdout: stream);
