//! The settings as their user meets them: each rule with what it accepts and what it refuses.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::*;
use crate::process::exit::Outcome;
use crate::process::settings::value::{WorkloadKind, WorkloadName};

const URI: (&str, &str) = ("GATE_MONGODB_URI", "mongodb://user:s3cret@host/datalab");

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn read(vars: &[(&str, &str)]) -> Result<Settings, Failure> {
    let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    Settings::from_vars(vars, &version("0.8.0"))
}

/// With a connection string.
fn accepted(vars: &[(&str, &str)]) -> Settings {
    read(&[&[URI], vars].concat()).unwrap_or_else(|failure| panic!("{vars:?}: {failure}"))
}

/// The error's text, which names the setting and shows no secret.
fn refused(vars: &[(&str, &str)]) -> String {
    let vars = [&[URI], vars].concat();
    let failure = read(&vars).expect_err(&format!("{vars:?}"));
    assert_eq!(failure.outcome, Outcome::SettingWrong, "{failure}");
    let text = failure.to_string();
    assert!(vars[1..].iter().any(|(name, _)| text.contains(name)), "{text}");
    assert!(!text.contains("s3cret") && !format!("{failure:?}").contains("s3cret"), "{text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn the_table_has_every_setting_that_is_read_and_no_other() {
    let names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let in_table: Vec<_> = SETTINGS.iter().map(|setting| setting.name.to_string()).collect();
    let raw = serde_json::to_value(Raw::default()).unwrap();
    let fields = raw.as_object().unwrap().keys();
    let read: Vec<_> = fields.map(|field| format!("GATE_{}", field.to_ascii_uppercase())).collect();
    assert_eq!(read, in_table);
}

#[test]
fn a_connection_string_is_enough() {
    let settings = accepted(&[]);
    assert_eq!(settings.uri.expose(), URI.1);
    assert_eq!(settings.database, "datalab");
    assert_eq!(settings.mode, Mode::Upgrade);
    assert_eq!(settings.initialise, Initialise::No);
    assert_eq!(settings.from_version, None);
    assert_eq!(settings.target_version, None);
    assert_eq!(settings.conditions, Conditions::Ask);
    assert_eq!(settings.timeout, Some(Duration::from_secs(300)));
    assert_eq!(settings.connect_timeout, Duration::from_secs(30));
    assert_eq!(settings.lock_wait, Duration::from_secs(240));
    assert_eq!(settings.lock_lease, Duration::from_secs(30));
    assert_eq!(settings.batch_documents, 2000);
    assert_eq!(settings.log, "info".parse().unwrap());
    assert_eq!(settings.log_format, None);
    assert_eq!(settings.repair, None);
    assert_eq!(settings.report_file, default_report_file());
    let report = accepted(&[("GATE_REPORT_FILE", "/tmp/report")]).report_file;
    assert_eq!(report, Some(PathBuf::from("/tmp/report")));
}

#[test]
fn needs_a_connection_string_in_exactly_one_form() {
    let failure = read(&[]).unwrap_err();
    assert_says(&failure.message, &["GATE_MONGODB_URI", "GATE_MONGODB_URI_FILE"]);
    assert_says(&refused(&[("GATE_MONGODB_URI_FILE", "/nowhere")]), &["both", "unset one"]);
}

#[test]
fn says_where_a_missing_or_wrong_connection_string_should_come_from() {
    let source = ("GATE_MONGODB_URI_SOURCE", "key uri of Secret datalab-mongodb");
    assert_eq!(accepted(&[source]).uri.expose(), URI.1);
    for empty in [&[source][..], &[source, ("GATE_MONGODB_URI", "")]] {
        let failure = read(empty).unwrap_err();
        assert_eq!(failure.outcome, Outcome::NoServer);
        assert_says(
            &failure.message,
            &["GATE_MONGODB_URI is not set", source.1, "missing or empty"],
        );
        assert_says(&failure.next, &[source.1, "mongodb://user:password@host:27017/database"]);
    }
    let wrong = read(&[source, ("GATE_MONGODB_URI", "s3cret@host")]).unwrap_err().to_string();
    assert_says(&wrong, &["GATE_MONGODB_URI (key uri of Secret datalab-mongodb)", "begin with"]);
    assert!(!wrong.contains("s3cret"), "{wrong}");
}

#[test]
fn reads_the_connection_string_from_a_mounted_file() {
    let path = std::env::temp_dir().join(format!("gate-uri-{}", std::process::id()));
    let from_file = || read(&[("GATE_MONGODB_URI_FILE", path.to_str().unwrap())]);

    std::fs::write(&path, format!("{}\n", URI.1)).unwrap();
    let settings = from_file().unwrap();
    assert_eq!((settings.uri.expose(), settings.database.as_str()), (URI.1, "datalab"));

    for (content, reason) in [("\n", "is empty"), ("user:s3cret@host/db", "begin with mongodb://")]
    {
        std::fs::write(&path, content).unwrap();
        let text = from_file().unwrap_err().to_string();
        assert_says(&text, &["GATE_MONGODB_URI_FILE", reason]);
        assert!(!text.contains("s3cret"), "{text}");
    }

    std::fs::remove_file(&path).unwrap();
    let text = from_file().unwrap_err().to_string();
    assert_says(&text, &["GATE_MONGODB_URI_FILE", path.to_str().unwrap(), "is missing"]);
}

#[test]
fn every_way_in_which_a_file_is_wrong_has_its_own_sentence() {
    let folder = std::env::temp_dir().join(format!("gate-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let failure = |path: &std::path::Path| {
        let vars = [("GATE_MONGODB_URI_FILE", path.to_str().unwrap())];
        let failure = read(&[&vars[..], &[("GATE_MONGODB_URI_SOURCE", "Secret lab")]].concat());
        let failure = failure.unwrap_err();
        let text = failure.to_string();
        assert_says(&text, &["GATE_MONGODB_URI_FILE", "Secret lab"]);
        assert!(!text.contains("s3cret"), "{text}");
        (failure.outcome, text)
    };
    let uri = "mongodb://u:s3cret@h/lab";
    let wide = |bytes: fn(u16) -> [u8; 2]| uri.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let path = folder.join("uri");
    for (contents, outcome, says) in [
        (b"".to_vec(), Outcome::NoServer, "is empty"),
        (b" \r\n".to_vec(), Outcome::NoServer, "is empty"),
        ([&[0xFF, 0xFE][..], &wide(u16::to_le_bytes)].concat(), Outcome::SettingWrong, "is UTF-16"),
        ([&[0xFE, 0xFF][..], &wide(u16::to_be_bytes)].concat(), Outcome::SettingWrong, "is UTF-16"),
        (wide(u16::to_le_bytes), Outcome::SettingWrong, "NUL bytes"),
        (format!("\u{feff}{uri}").into_bytes(), Outcome::SettingWrong, "byte-order mark"),
        (b"mongodb://u:s3cret\xff@h/lab".to_vec(), Outcome::SettingWrong, "is not UTF-8"),
        (format!("{uri}\n{uri}\n").into_bytes(), Outcome::SettingWrong, "several lines"),
        (format!("{uri}\rx").into_bytes(), Outcome::SettingWrong, "several lines"),
        (vec![b's'; 100_000], Outcome::SettingWrong, "larger than 64 KiB"),
    ] {
        std::fs::write(&path, &contents).unwrap();
        let (is, text) = failure(&path);
        assert_eq!(is, outcome, "{text}");
        assert_says(&text, &[says]);
    }
    for ending in ["", "\n", "\r\n", " \n\n"] {
        std::fs::write(&path, format!("{uri}{ending}")).unwrap();
        read(&[("GATE_MONGODB_URI_FILE", path.to_str().unwrap())]).unwrap();
    }
    let (is, text) = failure(&folder);
    assert_eq!(is, Outcome::SettingWrong);
    assert_says(&text, &["is a directory"]);
    let pipe = folder.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (is, text) = failure(&pipe);
    assert_eq!(is, Outcome::SettingWrong);
    assert_says(&text, &["named pipe to which nobody writes"]);
    // one to which somebody writes is a file like any other
    let pipe = folder.join("pipe with a writer");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::write(pipe, uri))
    };
    read(&[("GATE_MONGODB_URI_FILE", pipe.to_str().unwrap())]).unwrap();
    writer.join().unwrap().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_is_ignored_of_a_connection_string_is_said_with_its_source() {
    let uri = "mongodb://u:p%2Bq@h/lab?socketTimeoutMS=1&compressors=snappy&foo=1&tls=yes";
    let source = ("GATE_MONGODB_URI_SOURCE", "key uri of Secret lab");
    let settings = read(&[("GATE_MONGODB_URI", uri), source]).unwrap();
    let ignored = &settings.origin.ignored;
    for (warning, option) in ignored.iter().zip(["socketTimeoutMS", "compressors", "foo"]) {
        assert_says(warning, &[option, "GATE_MONGODB_URI (key uri of Secret lab)"]);
    }
    assert_eq!(ignored.len(), 3);
    assert_eq!(settings.uri.expose(), "mongodb://u:p%2Bq@h/lab?tls=true");
    assert!(settings.origin.plus_in_password);
    let wrong = read(&[("GATE_MONGODB_URI", "mongodb://h/lab?tlsCRLFile=x"), source]).unwrap_err();
    assert_says(&wrong.to_string(), &["tlsCRLFile", "key uri of Secret lab"]);
}

#[test]
fn a_database_of_mongodbs_own_is_not_the_applications() {
    for own in ["admin", "local", "config", "Admin"] {
        let uri = format!("mongodb://u:s3cret@h/{own}");
        let failure = read(&[("GATE_MONGODB_URI", &uri)]).unwrap_err();
        assert_eq!(failure.outcome, Outcome::SettingWrong);
        assert_says(&failure.to_string(), &[own, "authSource", "GATE_DATABASE"]);
        assert_says(&refused(&[("GATE_DATABASE", own)]), &[own, "MongoDB's own"]);
        let named = read(&[("GATE_MONGODB_URI", &uri), ("GATE_DATABASE", "lab")]).unwrap();
        assert_eq!(named.database, "lab");
        assert_eq!(named.origin.users_of.as_deref(), Some(own));
    }
}

#[test]
fn a_gate_of_another_version_than_the_application_is_refused() {
    for same in ["0.8.0", "v0.8.0", "0.8", "0.8.0+build.5"] {
        accepted(&[("GATE_APP_VERSION", same)]);
    }
    for other in ["0.7.0", "0.8.0rc1", "0.8.0.post1", "0.8.0.dev3"] {
        for mode in ["upgrade", "check", "wait", "plan", "sweep", "resume"] {
            let text = refused(&[("GATE_APP_VERSION", other), ("GATE_MODE", mode)]);
            assert_says(&text, &["this gate belongs to 0.8.0 but the application is"]);
        }
    }
    for none in ["latest", "0.8.0-1", "0.8.0-foo"] {
        assert_says(&refused(&[("GATE_APP_VERSION", none)]), &[none]);
    }
}

#[test]
fn a_timeout_of_zero_asks_once() {
    let settings = accepted(&[("GATE_TIMEOUT", "0s")]);
    assert_eq!(settings.asking, Asking::Once);
    assert_eq!((settings.timeout, settings.lock_wait), (Some(ONE_ANSWER), Duration::ZERO));
    let settings = accepted(&[("GATE_TIMEOUT", "0s"), ("GATE_CONNECT_TIMEOUT", "1s")]);
    assert_eq!(settings.timeout, Some(Duration::from_secs(1)));
    assert_eq!(accepted(&[("GATE_TIMEOUT", "1ms")]).asking, Asking::Again);
}

#[test]
fn nothing_that_looks_like_a_part_of_a_connection_string_is_shown() {
    for stray in ["u:s3cret@h/lab", "mongodb:/u:s3cret", "MONGODB://x:s3cret", "x@s3cret"] {
        for setting in SETTINGS {
            let read_as_it_is = ["GATE_MONGODB_URI", "GATE_REPORT_FILE", "GATE_DATABASE"];
            if !read_as_it_is.contains(&setting.name) {
                let failure = read(&[URI, (setting.name, stray)]);
                let Err(failure) = failure else { continue };
                assert!(!failure.to_string().contains("s3cret"), "{failure}");
            }
        }
    }
    // a line of YAML that became a name
    let failure = read(&[URI, ("GATE_MONGODB_URI: mongodb://u:s3cret@h/lab?w", "1")]).unwrap_err();
    assert!(!failure.to_string().contains("s3cret"), "{failure}");
    assert_says(&failure.to_string(), &["NAME=value"]);
    let long = refused(&[("GATE_FROM_VERSION", &"9".repeat(4_000_000))]);
    assert!(long.len() < 1000, "{}", long.len());
}

#[test]
fn a_connection_string_in_the_wrong_setting_is_not_shown() {
    for setting in SETTINGS {
        let read_as_it_is = ["GATE_MONGODB_URI", "GATE_REPORT_FILE", "GATE_EXPECT_VERSION"];
        if !read_as_it_is.contains(&setting.name) {
            refused(&[(setting.name, URI.1)]);
        }
    }
    let text = read(&[("GATE_MONGODB_URI_FILE", URI.1)]).unwrap_err().to_string();
    assert_says(&text, &["GATE_MONGODB_URI_FILE", "set GATE_MONGODB_URI instead"]);
    assert!(!text.contains("s3cret"));
}

#[test]
fn the_database_is_in_the_path_unless_it_is_set() {
    let at = |uri, more: &[_]| read(&[&[("GATE_MONGODB_URI", uri)], more].concat());
    let named = ("GATE_DATABASE", "other");
    assert_eq!(at("mongodb://host/datalab", &[named]).unwrap().database, "other");
    assert_eq!(at("mongodb://a,b/?replicaSet=rs0", &[named]).unwrap().database, "other");
    assert_eq!(at(" mongodb://host/datalab\n", &[]).unwrap().database, "datalab");

    for uri in ["mongodb://user:s3cret@host", "mongodb://host/", "mongodb://a,b/?replicaSet=rs0"] {
        let text = at(uri, &[]).unwrap_err().to_string();
        assert_says(&text, &["GATE_DATABASE", "path of GATE_MONGODB_URI"]);
        assert!(!text.contains("s3cret"));
    }
    assert_says(&refused(&[("GATE_DATABASE", "a.b")]), &["contains '.'"]);
}

#[test]
fn a_wrong_connection_string_is_refused_without_being_shown() {
    for uri in ["http://user:s3cret@host/db", "mongodb://user:s3c/ret@host/db", "s3cret"] {
        let failure = read(&[("GATE_MONGODB_URI", uri)]).unwrap_err();
        assert_says(&failure.to_string(), &["GATE_MONGODB_URI", "percent-encoded"]);
        let debug = format!("{failure:?}");
        assert!(!debug.contains("s3c") && !debug.contains("ret@"), "{debug}");
    }
}

#[test]
fn the_settings_can_be_logged() {
    let debug = format!("{:?}", accepted(&[]));
    assert!(debug.contains("uri: <hidden>") && !debug.contains("s3cret"), "{debug}");
}

#[test]
fn every_mode_is_read_and_displayed_alike() {
    for word in Mode::VARIANTS.iter().filter(|word| **word != "record") {
        assert_eq!(accepted(&[("GATE_MODE", word)]).mode.to_string(), *word);
    }
    assert_says(
        &refused(&[("GATE_MODE", "upgrdae")]),
        &["\"upgrdae\"", "plan or status or sweep or record or resume", "the nearest is upgrade"],
    );
    assert!(!refused(&[("GATE_MODE", "xyz")]).contains("nearest"));
}

const IN_POD: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");

#[test]
fn workloads_to_stop_are_named_by_kind_and_name() {
    let quiesce = |text| accepted(&[IN_POD, ("GATE_QUIESCE", text)]).quiesce;
    let web = WorkloadName { kind: WorkloadKind::Deployment, name: "web".to_owned() };
    let db = WorkloadName { kind: WorkloadKind::StatefulSet, name: "a.b-1".to_owned() };
    assert_eq!(quiesce(" Deployment/web , statefulset/a.b-1,deployment/web,"), [web.clone(), db]);
    assert_eq!(quiesce("deployment/web"), [web]);
    assert_eq!(quiesce("off"), []);
    for (text, reason) in [
        ("web", "without its kind"),
        ("daemonset/web", "a kind that cannot be stopped"),
        ("deployment/web,cronjob/x", "\"cronjob/x\""),
        ("other/deployment/web", "with a namespace"),
        ("deployment/other/web", "with a namespace"),
        ("deployment/Web", "no workload can have that name"),
        ("deployment/", "no workload can have that name"),
    ] {
        let text = refused(&[IN_POD, ("GATE_QUIESCE", text)]);
        assert_says(&text, &["GATE_QUIESCE", reason, "statefulset/NAME"]);
    }
}

#[test]
fn what_needs_kubernetes_is_refused_outside_of_it() {
    for on in [("GATE_QUIESCE", "deployment/web"), ("GATE_EVENTS", "true")] {
        assert_says(&refused(&[on]), &["KUBERNETES_SERVICE_HOST is not set", "unset"]);
        assert_says(&refused(&[on, ("KUBERNETES_SERVICE_HOST", "")]), &["is not set"]);
        accepted(&[IN_POD, on]);
    }
    for off in [("GATE_QUIESCE", ""), ("GATE_QUIESCE", "off"), ("GATE_EVENTS", "False")] {
        let settings = accepted(&[off]);
        assert_eq!((settings.events, settings.quiesce), (Events::Off, vec![]));
    }
}

#[test]
fn the_pod_is_what_the_downward_api_says() {
    assert_eq!(accepted(&[]).pod, Pod::default());
    let uid = "7e0c6a1e-52a8-4b3e-9b4e-0d0f2a4f1c11";
    let pod =
        accepted(&[("GATE_NAMESPACE", "lab"), ("GATE_JOB_UID", uid), ("GATE_JOB_NAME", "")]).pod;
    assert_eq!((pod.namespace.as_deref(), pod.job_uid.as_deref()), (Some("lab"), Some(uid)));
    assert_eq!(pod.job_name, None);
    assert_says(&refused(&[("GATE_POD_NAME", "a/b")]), &["GATE_POD_NAME", "downward API"]);
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    for (name, nearest) in [
        ("GATE_INITIALIZE", "GATE_INITIALISE"),
        ("GATE_TIME_OUT", "GATE_TIMEOUT"),
        ("GATE_mode", "GATE_MODE"),
        ("GATE_GATE_MODE", "GATE_MODE"),
        ("GATE_MONGODB_URL", "GATE_MONGODB_URI"),
    ] {
        let text = refused(&[(name, "fresh")]);
        assert_says(&text, &[&format!("nearest one is {nearest},"), "--help"]);
    }
    refused(&[("GATE_", "x")]);
    accepted(&[("GATEWAY_INITIALIZE", "fresh"), ("INITIALIZE", "fresh"), ("gate_mode", "x")]);
}

#[test]
fn what_kubernetes_injects_for_services_is_not_a_setting() {
    // As for Services called `gate`, `gate-mongodb` and `gate-port`, with a port called `http`.
    for service in ["GATE", "GATE_MONGODB", "GATE_PORT"] {
        for (end, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "8080"),
            ("SERVICE_PORT_HTTP", "8080"),
            ("PORT", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("PORT_8080_TCP_PROTO", "tcp"),
            ("PORT_8080_TCP_PORT", "8080"),
            ("PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            accepted(&[(&format!("{service}_{end}"), value)]);
        }
    }
    refused(&[("GATE_SERVICE", "x")]);
    refused(&[("GATE_RAPPORT", "x")]);
    assert!(!SETTINGS.iter().any(|setting| is_service_link(setting.name)));
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let everything: Vec<_> = SETTINGS[1..].iter().map(|setting| (setting.name, "")).collect();
    let settings = accepted(&everything);
    assert_eq!(settings.mode, Mode::Upgrade);
    accepted(&[("GATE_INITIALIZE", "")]);
    let failure = read(&[("GATE_MONGODB_URI", "")]).unwrap_err();
    assert_says(&failure.message, &["neither GATE_MONGODB_URI nor"]);
}

#[test]
fn durations_have_a_unit() {
    let settings = accepted(&[
        ("GATE_TIMEOUT", "10m"),
        ("GATE_CONNECT_TIMEOUT", "1m 30s"),
        ("GATE_LOCK_WAIT", "0s"),
        ("GATE_LOCK_LEASE", "500ms"),
    ]);
    assert_eq!(settings.timeout, Some(Duration::from_secs(600)));
    assert_eq!(settings.connect_timeout, Duration::from_secs(90));
    assert_eq!(settings.lock_wait, Duration::ZERO);
    assert_eq!(settings.lock_lease, Duration::from_millis(500));

    for name in ["GATE_TIMEOUT", "GATE_CONNECT_TIMEOUT", "GATE_LOCK_WAIT", "GATE_LOCK_LEASE"] {
        for number in ["90", "0", "1.5", " 90 "] {
            assert_says(&refused(&[(name, number)]), &["has no unit", "90s"]);
        }
        let units =
            ["5M", "5min", "1hour", "5S", "1y", "1w", "5us", "1month", "1.5h", "s", "5m s", "m5"];
        for other in ["soon", "-5s", "90x", "99999999999999999999s"].into_iter().chain(units) {
            assert_says(&refused(&[(name, other)]), &["is not a duration", "90s"]);
        }
    }
    for name in ["GATE_CONNECT_TIMEOUT", "GATE_LOCK_LEASE"] {
        assert_says(&refused(&[(name, "0s")]), &["100ms or more"]);
        assert_says(&refused(&[(name, "61m")]), &["more than an hour"]);
    }
}

#[test]
fn only_a_wait_is_unlimited_by_default() {
    assert_eq!(accepted(&[("GATE_MODE", "wait")]).timeout, None);
    let bounded = accepted(&[("GATE_MODE", "wait"), ("GATE_TIMEOUT", "1h")]);
    assert_eq!(bounded.timeout, Some(Duration::from_secs(3600)));
}

#[test]
fn choices_are_their_words_in_any_case() {
    let settings = accepted(&[
        ("GATE_INITIALISE", "Fresh"),
        ("GATE_SKIP_CONDITIONS", "TRUE"),
        ("GATE_LOG_FORMAT", "json"),
    ]);
    assert_eq!(settings.initialise, Initialise::Fresh);
    assert_eq!(settings.conditions, Conditions::SkipSkippable);
    assert_eq!(settings.log_format, Some(LogFormat::Json));
    assert_eq!(accepted(&[("GATE_SKIP_CONDITIONS", "False")]).conditions, Conditions::Ask);

    for other in ["1", "yes", "on", "true ", "t"] {
        assert_says(&refused(&[("GATE_SKIP_CONDITIONS", other)]), &["true or false"]);
    }
    assert_says(&refused(&[("GATE_INITIALISE", "true")]), &["\"true\"", "no or fresh"]);
    assert_says(&refused(&[("GATE_LOG_FORMAT", "xml")]), &["text or json"]);
}

#[test]
fn a_batch_has_at_least_one_document() {
    assert_eq!(accepted(&[("GATE_BATCH_DOCUMENTS", "1")]).batch_documents, 1);
    for other in ["0", "100001", "-1", "1.5", "1e3", "many"] {
        assert_says(
            &refused(&[("GATE_BATCH_DOCUMENTS", other)]),
            &["whole number", "from 1 to 100000"],
        );
    }
}

#[test]
fn the_log_is_a_level_or_levels_by_module() {
    for text in ["warn", "WARN", "off", "info,upgrade_gate=debug", "info, mongodb=trace"] {
        accepted(&[("GATE_LOG", text)]);
    }
    for text in ["inof", "upgrade_gate", "info,upgrade_gate", "upgrade_gate=loud", "info,"] {
        assert_says(&refused(&[("GATE_LOG", text)]), &["error, warn, info, debug, trace or off"]);
    }
}

#[test]
fn versions_are_those_that_can_be_written() {
    for (text, written) in [("0.7.0", "0.7.0"), ("v0.7.5", "0.7.5"), ("0.8.0rc1", "0.8.0-rc.1")] {
        let settings = accepted(&[("GATE_FROM_VERSION", text), ("GATE_TARGET_VERSION", text)]);
        assert_eq!(settings.from_version.unwrap().to_string(), written);
        assert_eq!(settings.target_version.unwrap().to_string(), written);
    }
    for name in ["GATE_FROM_VERSION", "GATE_TARGET_VERSION"] {
        for text in ["0.7.0.dev3", "0.7.0+local"] {
            assert_says(&refused(&[(name, text)]), &["development", "the release before it"]);
        }
        for text in ["latest", "0.7.0-1", "0.7.0.post1", "1!0.7.0"] {
            assert_says(&refused(&[(name, text)]), &[text, "X.Y.Z"]);
        }
    }
}

#[test]
fn no_version_to_write_is_above_the_code() {
    let settings = accepted(&[("GATE_TARGET_VERSION", "0.8.0"), ("GATE_FROM_VERSION", "0.9.0")]);
    assert_eq!(settings.target_version, Some(version("0.8.0")));
    // That is for the decision to judge: it is exit 12.
    assert_eq!(settings.from_version, Some(version("0.9.0")));

    let newer = &["is 0.8.1, but this binary is 0.8.0"];
    assert_says(&refused(&[("GATE_TARGET_VERSION", "0.8.1")]), newer);
    let repair = [("GATE_RECORD_VERSION", "0.8.1"), ("GATE_EXPECT_VERSION", "0.7.0")];
    assert_says(&refused(&[&[("GATE_MODE", "record")], &repair[..]].concat()), newer);
}

#[test]
fn a_target_has_a_meaning_only_where_something_is_upgraded() {
    let target = ("GATE_TARGET_VERSION", "0.7.0");
    for mode in ["upgrade", "plan"] {
        accepted(&[("GATE_MODE", mode), target]);
    }
    for mode in ["check", "wait"] {
        let text = refused(&[("GATE_MODE", mode), target]);
        assert_says(&text, &["GATE_TARGET_VERSION", mode, "modes upgrade and plan"]);
    }
}

#[test]
fn a_repair_names_what_it_replaces() {
    let record = ("GATE_MODE", "record");
    let to = ("GATE_RECORD_VERSION", "0.7.0");
    let from = ("GATE_EXPECT_VERSION", "not a version ");
    let journal = ("GATE_DISCARD_JOURNAL", "j1");
    let expected = |discard_journal: Option<&str>| Repair {
        version: version("0.7.0"),
        expect: "not a version ".into(),
        discard_journal: discard_journal.map(String::from),
    };
    assert_eq!(accepted(&[record, to, from]).repair, Some(expected(None)));
    assert_eq!(accepted(&[record, to, from, journal]).repair, Some(expected(Some("j1"))));

    for partly in [&[record, to][..], &[record, from], &[record, journal], &[record]] {
        assert_says(&refused(partly), &["GATE_RECORD_VERSION and GATE_EXPECT_VERSION"]);
    }
    for setting in [to, from, journal] {
        assert_says(
            &refused(&[setting]),
            &[setting.0, "no meaning in mode upgrade", "mode record"],
        );
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let failure = read(&[
        ("GATE_MODE", "chekc"),
        ("GATE_TIMEOUT", "90"),
        ("GATE_INITIALIZE", "fresh"),
        ("GATE_FROM_VERSION", "latest"),
    ])
    .unwrap_err();
    assert!(failure.message.starts_with("GATE_MODE cannot be \"chekc\"; also, "), "{failure}");
    for name in ["GATE_INITIALIZE", "GATE_MONGODB_URI", "GATE_FROM_VERSION", "GATE_TIMEOUT"] {
        assert_says(&failure.message, &[name]);
    }
    assert_says(&failure.next, &["the nearest is check", "GATE_INITIALISE", "90s"]);
}

#[test]
fn only_foreign_variables_may_be_other_than_utf8() {
    let broken = || OsString::from_vec(vec![b'x', 0xFF]);
    let vars = utf8([("PS1".into(), broken()), (broken(), "x".into()), ("A".into(), "b".into())]);
    assert!(vars.unwrap().contains(&("A".into(), "b".into())));

    let failure = utf8([("GATE_MODE".into(), broken())]).unwrap_err();
    assert_eq!(failure.outcome, Outcome::SettingWrong);
    assert_says(&failure.message, &["GATE_MODE is not UTF-8"]);
}
