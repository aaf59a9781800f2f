//! The page *Your own application*, from the copy to the image, as it stands there: `make own-app`.

mod support;

use std::fs;
use std::process::{Command, Output};

use mongodb::bson::{Document, doc};
use serde_json::Value;
use support::folder::Folder;
use support::guide::commands;
use support::{Server, db_hash};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test]
async fn the_program_to_copy_is_tested_planned_and_built_by_the_commands_of_the_page() {
    let server = Server::replica_set().await;
    let client = server.client().await;
    let folder = Folder::new("own-app-image");
    std::os::unix::fs::symlink(ROOT, folder.path().join("upgrade-gate")).unwrap();
    let run = |commands: &str| {
        Command::new("bash")
            .args(["-ec", commands])
            .env("CARGO_TARGET_DIR", format!("{ROOT}/target/own-app"))
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let copied = run(&commands("own-app-copy"));
    assert!(copied.status.success(), "{}", text(&copied));
    // the versions that the library is tested with, so that nothing newer can break this
    let program = folder.path().join("my-app-upgrade");
    fs::copy(format!("{ROOT}/Cargo.lock"), program.join("Cargo.lock")).unwrap();

    let uri = |database: &str| server.uri(database);
    let test = commands("own-app-test").replace("mongodb://127.0.0.1:27017/", &uri(""));
    let tested = run(&test);
    assert!(tested.status.success(), "{}", text(&tested));
    assert!(text(&tested).contains("the_upgrades_survive_kills ... ok"), "{}", text(&tested));

    let notes = client.database("my_app_copy").collection::<Document>("notes");
    notes.insert_one(doc! { "_id": 1, "name": "a note" }).await.unwrap();
    let untouched = db_hash(&client.database("my_app_copy")).await;
    let plan = commands("own-app-plan");
    let plan = plan.replace("mongodb://127.0.0.1:27017/my_app_copy", &uri("my_app_copy"));
    let planned = run(&format!("cd my-app-upgrade\n{plan}"));
    assert_eq!(planned.status.code(), Some(10), "{}", text(&planned));
    assert!(text(&planned).contains("Move 1 name(s) to title"), "{}", text(&planned));
    assert_eq!(db_hash(&client.database("my_app_copy")).await, untouched);

    // buildah stands in for docker
    let built = run(&format!("{ROOT}/tests/cluster/image.sh own-app my-app-upgrade"));
    assert!(built.status.success(), "{}", text(&built));
    let unpacked = run("mkdir image root && tar -xf my-app-upgrade/image.tar -C image \
         && for layer in image/*.tar image/*/layer.tar; do [ ! -f $layer ] || tar -xf $layer -C root; done \
         && cd root && find . -type f && ./upgrade --version && cat ../image/*.json");
    assert!(unpacked.status.success(), "{}", text(&unpacked));
    let said = text(&unpacked);
    let lines: Vec<_> = said.lines().collect();
    let mut files: Vec<_> = lines.iter().copied().filter(|line| line.starts_with("./")).collect();
    files.sort();
    assert_eq!(files, ["./upgrade"], "{said}");
    assert!(lines.contains(&"upgrade 1.4.0"), "{said}");
    assert!(said.contains(r#""User":"65532:65532""#), "{said}");
    assert!(said.contains(r#""Entrypoint":["/upgrade"]"#), "{said}");

    // the image's program applies what the plan showed
    let uri = uri("my_app_copy");
    let upgrade = format!("GATE_MONGODB_URI='{uri}' GATE_FROM_VERSION=1.3.0 root/upgrade");
    let upgraded = run(&upgrade);
    assert_eq!(upgraded.status.code(), Some(0), "{}", text(&upgraded));
    let report: Value = serde_json::from_slice(&upgraded.stdout).unwrap();
    assert_eq!(report["outcome"], "open", "{report}");
    let note = notes.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(note, doc! { "_id": 1, "title": "a note" });
}
