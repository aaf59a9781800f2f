//! Remedies that tests of other subjects follow, and those that no test can follow here.

/// A remedy by its beginning, the file of a test, and the test, which does what the remedy says and ends open.
#[rustfmt::skip]
pub const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("end the write block", "server_errors.rs", "writes_that_are_blocked_for_the_user_are_17"),
    ("grant it find on the application's collections", "settings.rs", "a_user_who_sees_nothing_cannot_say_that_a_database_is_empty"),
    ("finish it by running the code that began it", "record.rs", "an_unfinished_upgrade_is_given_up_only_by_its_name"),
    ("give these items refcodes", "datalab.rs", "an_item_without_a_refcode_closes_the_gate_until_it_has_one_or_the_operator_says_otherwise"),
    ("raise transactionLifetimeLimitSeconds", "large.rs", "a_transaction_step_that_outlives_its_transaction_says_so"),
    ("find the long transaction", "runners.rs", "documents_that_another_transaction_holds_are_waited_for_and_told_of"),
    ("use MongoDB 5.0 or later, or make", "large_edits.rs", "what_a_standalone_cannot_edit_is_refused_before_any_write"),
    ("once all members of the server run MongoDB 6.0", "feature_compatibility.rs", "renames_and_drops_are_refused_until_the_feature_compatibility_version_is_raised"),
    ("update the server to MongoDB 6.0", "feature_compatibility.rs", "renames_and_drops_are_refused_until_the_feature_compatibility_version_is_raised"),
    // upgrades from files
    ("unset {name}: the upgrades of this program", "files.rs", "validate_is_an_argument_or_the_mode_and_takes_the_directory"),
    ("correct the files; ", "files.rs", "files_are_judged_before_settings_and_without_a_server"),
    ("correct what is shown, then", "files.rs", "files_are_judged_before_settings_and_without_a_server"),
    ("leave out one of the two, or set GATE_MODE to validate", "files.rs", "validate_is_an_argument_or_the_mode_and_takes_the_directory"),
    ("set GATE_APP_VERSION to the version of the application that is about to start, or", "files.rs", "the_code_version_is_that_of_gate_yaml_or_else_of_the_application"),
    // runs that ended before their work was done
    ("run it again: it goes on where this run stopped", "runners.rs", "a_large_upgrade_interrupted_at_any_moment_is_done_once_and_counted_whole"),
    ("run it again: it waits for the other run", "runners.rs", "a_runner_stopped_beyond_its_lease_applies_nothing_when_it_wakes"),
    ("run it again: it starts from the record", "runners.rs", "a_runner_stopped_beyond_its_lease_applies_nothing_when_it_wakes"),
    ("run it again once the server answers and has a primary", "runners.rs", "a_server_that_is_gone_is_20_and_no_other_run"),
    ("once {answering} answers, run it again", "doubt.rs", "a_version_that_no_majority_confirms_is_in_doubt_however_the_run_ends"),
    ("check that the server, or a majority", "failover.rs", "a_lock_that_no_majority_confirms_ends_the_run_in_time_and_is_given_up"),
    ("name all members in the connection string, with", "failover.rs", "a_secondary_that_is_reached_directly_opens_no_gate"),
    // name servers: what each says that cannot be used, and one that knows the name
    ("; where it has none, a TXT record", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("; without authSource the user is looked up where", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("check that the name servers", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("check the name in the connection string (", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("check the name in the connection string, and", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("check the name server that", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("correct its TXT and SRV records", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("correct the name in the connection string", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("keep one TXT record there", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("name hosts of the same domain in its SRV records", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    ("name one in /etc/resolv.conf", "srv.rs", "a_name_that_the_dns_knows_leads_to_the_database"),
    // old code that is stopped
    ("find out who starts it", "e2e/quiesce.rs", "somebody_who_scales_up_in_the_middle_ends_the_run_and_the_next_finishes"),
    ("; {} must stay at 0", "e2e/quiesce.rs", "an_upgrade_that_fails_half_way_keeps_the_pods_stopped_until_it_is_mended"),
    ("; to start it by hand", "e2e/lost.rs", "a_gate_whose_rights_are_gone_says_what_it_could_not_restore"),
    ("; the next run restores it", "workloads.rs", "old_code_stays_stopped_while_a_commit_is_in_doubt"),
    ("free it by: {}", "e2e/lingering.rs", "an_ordered_stateful_set_that_is_stuck_is_freed_by_what_the_report_says"),
    ("kubectl describe pod shows", "workloads.rs", "pods_that_do_not_stop_in_time_restore_and_say_what_frees_them"),
    ("give the gate's pods labels", "e2e/quiesce.rs", "what_cannot_be_stopped_is_named_before_any_write"),
    ("give the pod a service account", "e2e/rights.rs", "each_right_that_is_missing_is_named_before_anything_is_stopped"),
    ("grant its service account to", "e2e/rights.rs", "each_right_that_is_missing_is_named_before_anything_is_stopped"),
    ("check that it runs and that the pod reaches it", "e2e/lost.rs", "a_run_ends_with_the_truth_while_the_api_server_stands_still"),
];

/// A remedy by its beginning, and why no test follows it.
#[rustfmt::skip]
pub const NOWHERE: &[(&str, &str)] = &[
    ("report this with the log", "nothing is to be run after that"),
    ("enlarge the cluster", "only a cluster of Atlas has a quota"),
    ("run it again once the balancer", "needs a sharded cluster, and no mongos is at hand"),
    ("use MongoDB 4.4 or later", "needs a server before 4.4"),
    ("stop what writes to them", "needs a writer who is faster than every edit for minutes"),
    ("read the server's log", "no server is known that answers a command and does nothing"),
    ("see what it objects to", "no such answer of the API server is known"),
    ("see its scale", "Kubernetes lets no Deployment or StatefulSet be without a selector"),
    ("check that the pod's service account", "the pod of a deleted ServiceAccount has a token until that expires"),
    ("set GATE_NAMESPACE by", "a pod always knows its namespace, by its service account's files"),
    ("find out why its file system", "needs a file system that does not answer"),
    ("unset {name}, or build it", "needs a build without Kubernetes"),
    ("correct the options in GATE_MONGODB_URI", "the gate refuses such options before the driver does"),
    ("write it as mongodb://user", "the gate refuses such a string before the driver does"),
];

/// Parts of remedies, which are followed with the whole.
pub const PARTS: &[&str] = &[
    " (and {} once more, on what it left)",
    " and GATE_DISCARD_JOURNAL={id}",
    "\"{}\" of {}, only through {}",
    ", or to {} where the documents need nothing",
    "the release before {version}",
    "the upgrade of {}",
    "a majority of the replica set's members",
    "the server",
    "{}; {next}",
    " (ssl is another name of tls)",
    "a version X.Y.Z or X.Y.Z-rc.N",
    "the release before it",
    "the database {database}",
];
