//! The upgrades under kills, on the server that TEST_MONGODB_URI names.

use upgrade_gate::bson::doc;
use upgrade_gate::harness::Harness;

#[tokio::test]
async fn the_upgrades_survive_kills() {
    let uri = std::env::var("TEST_MONGODB_URI").expect("TEST_MONGODB_URI names a test server");
    let survived = Harness::new(my_app_upgrade::gate(), uri)
        .set("GATE_FROM_VERSION", "1.3.0")
        .run(async |database| {
            // the same documents at every call
            let notes = (0..20).map(|n| doc! { "_id": n, "name": format!("note {n}") });
            database.collection("notes").insert_many(notes).await?;
            Ok(())
        })
        .await
        .unwrap();
    assert!(survived.kills > 0);
}
