//! MongoDB in the application's own release: at the first installation no hook can come after it.

use mongodb::bson::doc;
use mongodb::{Client, Database};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use super::apps;
use super::command::{command, required};
use super::gate::merged;
use super::lab;
use super::runner::{BOTH, Scenario, scenario};
use super::world::{World, report};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(BOTH, the_first_pod_begins_where_mongodb_comes_with_the_release),
        scenario!(BOTH, a_hook_that_runs_before_mongodb_ends_the_first_installation),
    ]
}

/// The lab with three replicas and a MongoDB of its own, as the guide says that such releases begin.
fn with_mongodb(values: Value, address: &Value) -> Value {
    let own = json!({
        "mongod": { "image": required("E2E_MONGOD_IMAGE"), "address": address },
        "secret": "own-mongodb",
        "replicas": 3,
        "gate": {
            "mongodb": { "existingSecret": { "name": "own-mongodb" } },
            "settings": { "initialise": "fresh" },
            "hooks": { "onInstall": false },
            "initContainer": { "mode": "upgrade" },
        },
    });
    merged(values, own)
}

/// The database of the release, through a tunnel that is there as long as the first is kept.
async fn own_database(world: &World) -> (Child, Database) {
    let service = ["--namespace", &world.namespace, "port-forward", "service/mongod", ":27017"];
    let mut tunnel = command("kubectl", &service).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tunnel.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
    // Forwarding from 127.0.0.1:40123 -> 27017
    let address = line.split(' ').nth(2).unwrap_or_else(|| panic!("no tunnel: {line}"));
    let uri = format!("mongodb://{address}/?directConnection=true");
    let client = Client::with_uri_str(uri).await.unwrap();
    (tunnel, client.database("lab"))
}

async fn the_first_pod_begins_where_mongodb_comes_with_the_release(world: &World) {
    let address = world.free_address().await;
    // without any upgrade nobody would have to say what the database is
    let (first, next) = ("0.6.0=increment", "0.6.0=increment;0.8.0=move_field");
    let old = with_mongodb(lab::lab("0.7.0", "a", "0.7.0", first), &address);
    world.upgrade_lab(&old, &["--wait"]).await.ok();
    world.serves("0.7.0").await;
    assert_eq!(world.hook_job().await, None);
    let pods = world.pods("app=lab").await;
    let open = pods.iter().filter(|pod| report(pod)["exit_code"] == 0).count();
    assert_eq!((pods.len(), open), (3, 3), "{pods:#?}");
    let (_tunnel, database) = own_database(world).await;
    let record = apps::record(&database).await;
    assert_eq!(apps::history(&record), ["initialise 0.7.0"], "once, by one of three");

    apps::fill(&database, "things", (0..20).map(|n| doc! { "_id": n, "a": n })).await;
    let new = with_mongodb(lab::lab("0.8.0", "b", "0.8.0", next), &address);
    world.upgrade_lab(&new, &["--wait"]).await.ok();
    world.serves("0.8.0").await;
    let hook = report(&world.hook_pods().await[0]);
    assert_eq!((&hook["exit_code"], &hook["from"]), (&json!(0), &json!("0.7.0")), "{hook}");
    assert_eq!(apps::count(&database, "things", doc! { "b": { "$exists": true } }).await, 20);
    let record = apps::record(&database).await;
    assert_eq!(apps::history(&record), ["initialise 0.7.0", "upgrade 0.8.0"]);
}

async fn a_hook_that_runs_before_mongodb_ends_the_first_installation(world: &World) {
    let address = world.free_address().await;
    let right = with_mongodb(lab::old(), &address);
    let once = json!({ "gate": { "hooks": { "backoffLimit": 0 } } });
    let right = merged(right, once);
    let hook = json!({ "gate": { "hooks": { "onInstall": true } } });
    let wrong = merged(right.clone(), hook);
    // not even the Secret is there
    let refused = world.upgrade_lab(&wrong, &[]).await.failed();
    refused.says("(exit 20").says("key uri of Secret own-mongodb");
    assert_eq!(world.find("deployment/mongod").await, None);
    // where the connection string is known, there is no server
    let known = json!({ "gate": {
        "mongodb": { "existingSecret": { "name": "" }, "uri": format!("mongodb://{}/lab", address.as_str().unwrap()) },
        "settings": { "connectTimeout": "1s" },
    } });
    world.upgrade_lab(&merged(wrong, known), &[]).await.failed().says("(exit 20");

    // For Helm an installation that failed is one, and what follows an upgrade, with its hook.
    world.upgrade_lab(&right, &[]).await.failed().says("(exit 20");
    world.helm(&["uninstall", "lab"]).await.ok();
    world.upgrade_lab(&right, &["--wait"]).await.ok();
    world.serves("0.7.0").await;
}
