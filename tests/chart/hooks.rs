//! The three engines, and what each makes of the Job and of what it needs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use upgrade_gate::Outcome;

use crate::helm::{Release, Rendered, env, name, pod, render, text_at};

/// The annotations that make an object a hook, in order, without their common beginning.
fn hook(object: &Value) -> Vec<(String, String)> {
    let annotations = object["metadata"]["annotations"].as_object().into_iter().flatten();
    let short = |name: &str| {
        let name = name.strip_prefix("helm.sh/").or(name.strip_prefix("argocd.argoproj.io/"));
        name.map(String::from)
    };
    let found = annotations.filter_map(|(key, value)| Some((short(key)?, value.as_str()?.into())));
    found.collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// What the Job needs, as hooks.
fn needs(rendered: &Rendered) -> Vec<&Value> {
    let kinds = ["ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "Secret"];
    let of_kinds = kinds.iter().flat_map(|kind| rendered.of_kind(kind));
    of_kinds.filter(|object| !hook(object).is_empty()).collect()
}

const ALL_NEEDS: &str =
    "mongodb: { uri: mongodb://u:s3cret@host/db }\nnetworkPolicy: { enabled: true }\n";

#[test]
fn helm_runs_the_job_before_install_and_upgrade_and_keeps_a_failed_one() {
    let rendered = render("");
    assert_eq!(name(rendered.job()), "r-upgrade-gate-helm");
    let expected = [
        ("hook", "pre-install,pre-upgrade"),
        ("hook-delete-policy", "before-hook-creation"),
        ("hook-output-log-policy", "hook-failed,hook-succeeded"),
        ("hook-weight", "0"),
    ];
    assert_eq!(hook(rendered.job()), pairs(&expected));
    assert_eq!(rendered.job()["spec"].get("ttlSecondsAfterFinished"), None);

    let later = render("hooks: { onInstall: false }");
    assert_eq!(hook(later.job())[0].1, "pre-upgrade");
}

#[test]
fn what_helms_job_needs_is_there_before_it_and_the_secret_does_not_stay() {
    let rendered = render(ALL_NEEDS);
    assert_eq!(needs(&rendered).len(), 5);
    for object in needs(&rendered) {
        let secret = object["kind"] == "Secret";
        let policy = "before-hook-creation";
        let policy =
            if secret { format!("{policy},hook-succeeded,hook-failed") } else { policy.into() };
        let expected = [
            ("hook", "pre-install,pre-upgrade"),
            ("hook-delete-policy", &policy),
            ("hook-weight", "-10"),
        ];
        assert_eq!(hook(object), pairs(&expected), "{object:#}");
    }
    let job = pod(rendered.job());
    assert_eq!(env(job)["GATE_MONGODB_URI"], "secret r-upgrade-gate-helm-mongodb uri");
    assert_eq!(job["serviceAccountName"], "r-upgrade-gate-helm");

    let later = render(&format!("{ALL_NEEDS}hooks: {{ onInstall: false }}"));
    assert!(needs(&later).iter().all(|object| hook(object)[0].1 == "pre-upgrade"));
}

#[test]
fn argo_cds_job_has_a_new_name_each_time_and_goes_when_it_succeeded() {
    let rendered = render(&format!("{ALL_NEEDS}hooks: {{ engine: argocd, ttl: 1h }}"));
    let job = rendered.job();
    assert_eq!(job["metadata"]["generateName"], "r-upgrade-gate-argocd-");
    assert_eq!(job["metadata"].get("name"), None);
    let expected =
        [("hook", "PreSync"), ("hook-delete-policy", "HookSucceeded"), ("sync-wave", "0")];
    assert_eq!(hook(job), pairs(&expected));
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 3600);
    assert_eq!(needs(&rendered).len(), 5);
    for object in needs(&rendered) {
        let secret = object["kind"] == "Secret";
        let policy = "HookFailed";
        let policy = if secret {
            format!("BeforeHookCreation,HookSucceeded,{policy}")
        } else {
            policy.into()
        };
        let expected =
            [("hook", "PreSync"), ("hook-delete-policy", policy.as_str()), ("sync-wave", "-10")];
        assert_eq!(hook(object), pairs(&expected), "{object:#}");
    }
}

#[test]
fn argo_cds_job_runs_between_mongodb_and_the_application_when_not_on_install() {
    for (values, wave, before) in [("", "1", "-9"), (", argocd: { syncWave: 5 }", "5", "-5")] {
        let values = format!("hooks: {{ engine: argocd, onInstall: false{values} }}");
        let rendered = render(&values);
        let expected =
            [("hook", "Sync"), ("hook-delete-policy", "HookSucceeded"), ("sync-wave", wave)];
        assert_eq!(hook(rendered.job()), pairs(&expected));
        for object in needs(&rendered) {
            let is = hook(object);
            assert_eq!((is[0].1.as_str(), is[2].1.as_str()), ("Sync", before), "{object:#}");
        }
    }
}

#[test]
fn without_an_engine_it_is_an_ordinary_job_of_this_revision_and_content() {
    let of = |values: &str| render(&format!("hooks: {{ engine: none }}\n{values}"));
    let rendered = of("");
    let its_name = name(rendered.job());
    let hash = its_name.strip_prefix("r-upgrade-gate-none-1-").unwrap();
    assert!(hash.len() == 8 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{its_name}");
    assert_eq!(hook(rendered.job()), []);
    assert!(needs(&rendered).is_empty());
    assert_eq!(rendered.job()["spec"]["activeDeadlineSeconds"], 270);
    assert_eq!(rendered.job()["spec"]["ttlSecondsAfterFinished"], 86400);
    assert_eq!(pod(rendered.job())["serviceAccountName"], "r-upgrade-gate");

    assert_eq!(name(of("").job()), its_name, "rendered twice, it is the same Job");
    assert_eq!(name(of("manual: { mode: check }").job()), its_name);
    for changed in
        ["settings: { fromVersion: 0.6.0 }", "image: { tag: 0.9.0 }", "podLabels: { a: b }"]
    {
        assert_ne!(name(of(changed).job()), its_name, "{changed}");
    }
}

#[test]
fn hooks_have_their_engine_in_their_names_so_that_engines_can_be_changed() {
    let more = "networkPolicy: { enabled: true }\nserviceAccount: { name: mine }\n";
    let quiesce = "quiesce: { workloads: [deployment/app], resume: true }\n";
    let hooks_of = |engine: &str, values: &str| -> BTreeSet<(String, String)> {
        let rendered = render(&format!("{more}{quiesce}hooks: {{ engine: {engine}{values} }}"));
        let hooks = rendered.0.iter().filter(|object| !hook(object).is_empty());
        hooks.map(|object| (text_at(object, "/kind"), name(object))).collect()
    };
    let helm = hooks_of("helm", ", onRollback: true");
    let argocd = hooks_of("argocd", "");
    assert_eq!((helm.len(), argocd.len()), (8, 7));
    assert!(helm.iter().all(|(_, name)| name.contains("-helm")), "{helm:?}");
    let argocds = argocd.iter().filter(|(kind, _)| kind != "Pod");
    assert!(argocds.clone().all(|(_, name)| name.contains("-argocd")), "{argocd:?}");
    let plain = render(&format!("{more}hooks: {{ engine: none }}"));
    let plain = plain.names();
    let same: Vec<_> = plain.intersection(&helm).filter(|(kind, _)| kind != "Pod").collect();
    assert!(same.is_empty(), "an ordinary object cannot take a hook's place: {same:?}");
}

#[test]
fn every_name_has_at_most_52_characters_and_releases_do_not_meet() {
    let values = "mongodb: { uri: mongodb://host/db }\nnetworkPolicy: { enabled: true }\n\
                  events: { enabled: true, initContainerAccount: app }\n";
    let account = format!("serviceAccount: {{ name: {} }}\n", "b".repeat(52));
    let resume = "quiesce: { workloads: [deployment/app], resume: true }\n";
    for (engine, more) in [("helm", resume), ("argocd", resume), ("none", ""), ("helm", &account)] {
        let values = format!("{values}{more}hooks: {{ engine: {engine} }}\n");
        // a release's name has at most 53 characters
        let [one, other] = ["x", "y"].map(|end| {
            let release = format!("{}{end}", "a-release-".repeat(6).split_at(52).0);
            let names = Release::of(&values).named(&release).render().names();
            for (kind, name) in &names {
                // Argo CD adds up to 27 characters, and a Job's name may have 63
                let limit = if name.ends_with('-') { 63 - 27 } else { 52 };
                assert!(name.len() <= limit, "{kind} {name}");
            }
            names
        });
        let meet: Vec<_> = one.intersection(&other).collect();
        assert!(meet.iter().all(|(kind, _)| kind == "ServiceAccount"), "{meet:?}");
        assert_eq!(meet.is_empty(), more != account, "the operator's own name is the operator's");
    }
    let short = |release: &str| Release::of("").named(release).render().names();
    assert_eq!(short("a").intersection(&short("b")).count(), 0, "two releases in one namespace");
    let numbers = Release::of("events: { enabled: true, initContainerAccount: '7' }").named("123");
    numbers.namespace("42").render();
    let alone = Release::of("").named("my-upgrade-gate").render();
    assert_eq!(name(alone.job()), "my-upgrade-gate-helm");
}

#[test]
fn the_job_ends_at_once_with_every_code_that_no_repetition_can_help() {
    let mut last: Vec<u8> = Outcome::ALL
        .iter()
        .filter(|outcome| **outcome != Outcome::Open && !outcome.retry_can_help())
        .map(|outcome| outcome.code())
        .collect();
    assert!(last.contains(&23) && !last.contains(&20));
    let panic = 101;
    last.push(panic);
    let rendered =
        render("hooks: { onRollback: true }\nquiesce: { workloads: [deployment/a], resume: true }");
    let manual = &rendered.get("CronJob", "r-upgrade-gate")["spec"]["jobTemplate"];
    for job in rendered.of_kind("Job").into_iter().chain([manual]) {
        let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(
            rules[0]["action"], "Ignore",
            "an eviction that exits with 22 or 14 is looked at first"
        );
        assert_eq!(rules[0]["onPodConditions"][0]["type"], "DisruptionTarget");
        assert_eq!(rules[1]["action"], "FailJob");
        let codes = &rules[1]["onExitCodes"];
        assert_eq!(codes["operator"], "In");
        assert_eq!(codes["values"], json!(last));
        let container = &pod(job)["containers"][0];
        assert_eq!(codes["containerName"], container["name"], "a side car's exit is none of ours");
        assert_eq!(pod(job)["restartPolicy"], "Never");
        assert_eq!(job["spec"]["backoffLimit"], 3);
    }
    let once = render("hooks: { backoffLimit: 0 }");
    assert_eq!(once.job()["spec"]["backoffLimit"], 0);
}

#[test]
fn the_timeout_is_the_jobs_deadline() {
    let seconds = |timeout: &str| {
        let rendered = render(&format!("hooks: {{ timeout: {timeout} }}"));
        rendered.job()["spec"]["activeDeadlineSeconds"].clone()
    };
    for (timeout, expected) in [("4m30s", 270), ("1h30m", 5400), ("90s", 90), ("2h1s", 7201)] {
        assert_eq!(seconds(timeout), expected, "{timeout}");
    }
    assert_eq!(render("").job()["spec"]["activeDeadlineSeconds"], 270);
    for wrong in ["0s", "90", "'90'", "1m30", "-5m", "1d", "''"] {
        let refusal = Release::of(&format!("hooks: {{ timeout: {wrong} }}")).refusal();
        assert!(refusal.contains("hooks/timeout"), "{wrong}: {refusal}");
    }
    let manual =
        &render("").get("CronJob", "r-upgrade-gate")["spec"]["jobTemplate"]["spec"].clone();
    assert_eq!(manual.get("activeDeadlineSeconds"), None, "a run by hand may take its time");
}

#[test]
fn nothing_looks_before_a_rollback_unless_asked_and_then_it_only_looks() {
    let quiet = render("");
    assert!(quiet.of_kind("Job").iter().all(|job| !hook(job)[0].1.contains("rollback")));
    let rendered = render("hooks: { onRollback: true }\nsettings: { initialise: fresh }");
    let check = rendered.get("Job", "r-upgrade-gate-helm-rollback");
    assert_eq!(hook(check)[0].1, "pre-rollback");
    assert_eq!(env(pod(check))["GATE_MODE"], "check");
    assert!(!env(pod(check)).contains_key("GATE_INITIALISE"));
    for object in needs(&rendered) {
        assert_eq!(hook(object)[0].1, "pre-install,pre-upgrade,pre-rollback");
    }
    for engine in ["argocd", "none"] {
        let values = format!("hooks: {{ onRollback: true, engine: {engine} }}");
        assert!(
            Release::of(&values).refusal().contains("hooks.onRollback needs hooks.engine helm")
        );
    }
}

#[test]
fn replicas_are_given_back_after_the_release_on_request() {
    let quiesce = "quiesce: { workloads: [deployment/app], resume: true }\n";
    let helm = render(quiesce);
    let job = helm.get("Job", "r-upgrade-gate-helm-resume");
    assert_eq!(hook(job)[0].1, "post-upgrade,post-rollback");
    assert_eq!(env(pod(job))["GATE_MODE"], "resume");
    assert_eq!(env(pod(job))["GATE_QUIESCE"], "deployment/app");
    assert_eq!(
        pod(job)["serviceAccountName"],
        "r-upgrade-gate",
        "the release's own is there by then"
    );

    let argocd = render(&format!("{quiesce}hooks: {{ engine: argocd }}"));
    let job = argocd.get("Job", "r-upgrade-gate-argocd-resume-");
    assert_eq!(hook(job), pairs(&[("hook", "PostSync"), ("hook-delete-policy", "HookSucceeded")]));
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 86400);

    let none = Release::of(&format!("{quiesce}hooks: {{ engine: none }}"));
    assert!(none.refusal().contains("the run that upgraded resumes"));
    for without in ["quiesce: { workloads: [deployment/app] }", "quiesce: { resume: true }"] {
        assert_eq!(render(without).find("Job", "r-upgrade-gate-helm-resume"), None, "{without}");
    }
}

#[test]
fn an_installation_and_an_upgrade_are_rendered_alike() {
    for engine in ["helm", "argocd", "none"] {
        let release = Release::of(&format!("hooks: {{ engine: {engine} }}"));
        assert_eq!(release.render(), release.clone().argument("--is-upgrade").render());
    }
}

#[test]
fn the_command_that_removes_what_hooks_leave_finds_all_of_it() {
    let uri = "mongodb: { uri: mongodb://host/db }";
    let files = "upgrades: { gate.yaml: 'app: a' }";
    let rendered = render(&format!("{uri}\nhooks: {{ onRollback: true }}\n{files}\n"));
    let hooks: Vec<_> = rendered.0.iter().filter(|object| !hook(object).is_empty()).collect();
    let kinds: BTreeSet<_> =
        hooks.iter().map(|hook| text_at(hook, "/kind").to_lowercase()).collect();
    let readme = std::fs::read_to_string(format!("{}/README.md", crate::helm::CHART)).unwrap();
    let notes = Release::of("").notes();
    for text in [&readme, &notes] {
        let command = text.lines().find_map(|line| line.trim().strip_prefix("kubectl delete job,"));
        let command = format!("job,{}", command.unwrap());
        let named = command.split(' ').next().unwrap().split(',').map(String::from);
        assert_eq!(named.collect::<BTreeSet<_>>(), kinds);
        assert!(text.contains(",upgrade-gate/hooks=helm"), "{text}");
    }
    for object in &rendered.0 {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/instance"], "r");
        let is_hook = labels["upgrade-gate/hooks"] == "helm";
        assert_eq!(is_hook, !hook(object).is_empty(), "{object:#}");
    }
}
