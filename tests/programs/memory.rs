//! What the gate holds while a program is asked about what is large: in the memory that the chart gives it, where the machine
//! lets a cgroup be made, with a program that takes little itself.

use mongodb::bson::{Document, doc};

use super::WIRE;
use super::apps::{METADATA, assert_frugal, count, fill, record_old, scenario};
use super::support::Server;
use super::support::folder::Folder;

/// Moves `a`, which comes right after the `_id`, and holds no message as a whole.
const MOVE: &str = r#"
def skip(n):
    while n:
        more = os.read(0, min(n, 1 << 16))
        n -= len(more)

all = messages()
next(all)
send(READY)
while (size := take(4)) is not None:
    size = int.from_bytes(size, "little") - 4
    head = take(min(size, 60))
    skip(size - len(head))
    at = head.find(b"\x10a\0")
    if at < 0:
        send(NOTHING)
    else:
        a = head[at + 3 : at + 7]
        fields = b"\x10b\0" + a + b"\0"
        fields = b"\3set\0" + (len(fields) + 4).to_bytes(4, "little") + fields
        fields += b"\4unset\0\x0e\0\0\0\x020\0\2\0\0\0a\0\0\0"
        send((len(fields) + 4).to_bytes(4, "little") + fields)
"#;

#[tokio::test]
async fn documents_of_any_size_and_one_key_with_very_many_documents_are_asked_about_in_bounded_memory()
 {
    let folder = Folder::new("large-asked");
    folder.write("program.py", &format!("{WIRE}\n{MOVE}"));
    let standalone = Server::standalone().await;
    for server in [Server::shared().await, &standalone] {
        let database = server.database().await;
        let things = database.collection::<Document>("things");
        let fresh = async || {
            things.drop().await.unwrap();
            database.collection::<Document>(METADATA).drop().await.unwrap();
            record_old(&database).await;
        };
        let upgraded = async |upgrade: &str, documents: u64| {
            let gate = scenario(&database.uri, "0.8.0", &format!("0.8.0={upgrade}"))
                .set("SCENARIO_PROGRAM", folder.path().join("program.py").to_str().unwrap())
                .set("PATH", std::env::var("PATH").unwrap());
            assert_frugal(&gate).await;
            let moved = doc! { "a": { "$exists": false }, "b": { "$type": "int" } };
            assert_eq!(count(&database, "things", moved).await, documents);
        };
        // as large as a document may be
        fresh().await;
        let load = "y".repeat(16 * 1024 * 1024 - 1000);
        for i in 0..3 {
            fill(&database, "things", [doc! { "_id": i, "a": i, "load": &load }]).await;
        }
        upgraded("program", 3).await;
        // an array of as many elements as a document can have
        fresh().await;
        let list: Vec<i32> = vec![1; 1_000_000];
        fill(&database, "things", [doc! { "_id": 0, "a": 0, "list": list }]).await;
        upgraded("program", 1).await;
        // together more than any document may have
        fresh().await;
        let load = "y".repeat(1000);
        for part in 0..4 {
            let people =
                (0..5_000).map(|i| doc! { "_id": part * 5_000 + i, "name": 7, "load": &load });
            fill(&database, "people", people).await;
        }
        let index = doc! { "key": { "name": 1 }, "name": "name" };
        database.run_command(doc! { "createIndexes": "people", "indexes": [index] }).await.unwrap();
        fill(&database, "things", [doc! { "_id": 0, "a": 7 }, doc! { "_id": 1, "a": 8 }]).await;
        upgraded("program_found", 2).await;
    }
}
