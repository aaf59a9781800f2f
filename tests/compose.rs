//! `deploy/compose.yaml`, run by Docker's own Compose on a Docker engine of its own. Needs root.

mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mongodb::bson::oid::ObjectId;
use serde_json::Value;
use support::guide::commands;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// An engine that has the images of the compose file. It ends when dropped.
struct Engine {
    state: PathBuf,
}

impl Engine {
    fn start() -> Engine {
        script(&["tools"]);
        let state = env::temp_dir().join(format!("upgrade-gate-{}", ObjectId::new()));
        let engine = Engine { state };
        let place = engine.state.to_str().unwrap();
        script(&["up", place]);
        script(&["gate", place, "gate:test"]);
        let mongod = support::mongod().to_str().unwrap();
        script(&[
            "image",
            place,
            "mongo:test",
            mongod,
            "--bind_ip_all",
            "--wiredTigerCacheSizeGB=0.25",
        ]);
        // it is enough that the API starts, and stays
        script(&["image", place, "api:test", "/bin/sleep", "infinity"]);
        engine
    }

    /// Runs commands of the guide, in the repository.
    fn run(&self, commands: &str) -> Output {
        let docker = Path::new(ROOT).join(".cache/cluster/docker/usr/bin");
        let path = env::join_paths([docker.as_path(), Path::new("/usr/bin"), Path::new("/bin")]);
        Command::new("bash")
            .args(["-ec", commands])
            .current_dir(ROOT)
            .env_clear()
            .env("PATH", path.unwrap())
            .env("DOCKER_HOST", format!("unix://{}/socket", self.state.display()))
            .env("DOCKER_CONFIG", self.state.join("config"))
            .env("UPGRADE_IMAGE", "gate:test")
            .env("MONGO_IMAGE", "mongo:test")
            .env("API_IMAGE", "api:test")
            .output()
            .unwrap()
    }

    /// Starts the database again, without its volume.
    fn empties_the_database(&self) {
        let compose = "docker compose --file deploy/compose.yaml";
        let done = self.run(&format!("{compose} down --volumes && {compose} up --detach database"));
        assert!(done.status.success(), "{}", text(&done));
    }

    /// Writes what an older datalab would have, in the engine's own network.
    fn inserts_an_item(&self) {
        let network = fs::read_to_string(self.state.join("name")).unwrap();
        let address = self.run(
            "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' datalab-database-1",
        );
        let program = format!(
            "import pymongo\npymongo.MongoClient('mongodb://{}:27017').datalabvue.items.insert_one({{'item_id': 'a', 'refcode': 'test:A'}})",
            text(&address).trim()
        );
        let done = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", network.trim()))
            .args(["python3", "-c", &program])
            .env("PYTHONPATH", Path::new(ROOT).join(".cache/python"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", text(&done));
    }

    fn api_runs(&self) -> bool {
        let running = self.run("docker ps --quiet --filter name=datalab-api-1");
        assert!(running.status.success(), "{}", text(&running));
        !running.stdout.is_empty()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        script(&["down", self.state.to_str().unwrap()]);
    }
}

fn script(arguments: &[&str]) {
    let path = Path::new(ROOT).join("tests/cluster/docker.sh");
    let done = Command::new(path).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", text(&done));
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

#[test]
fn the_api_starts_after_the_gate_and_not_without_it() {
    let engine = Engine::start();
    the_image_is_what_the_dockerfile_says(&engine);

    // nobody has said what the database is
    let closed = engine.run(&commands("compose-upgrade"));
    assert!(!closed.status.success(), "{}", text(&closed));
    assert!(text(&closed).contains("exit 11"), "{}", text(&closed));
    assert!(!engine.api_runs());
    let log = text(&engine.run(&commands("compose-logs")));
    assert!(log.contains("GATE_FROM_VERSION") && log.contains("GATE_INITIALISE"), "{log}");

    let plan = commands("compose-plan");
    let from =
        |version| plan.replace("run --rm", &format!("run --rm -e GATE_FROM_VERSION={version}"));
    let empty = engine.run(&from("0.7.5"));
    assert_eq!(empty.status.code(), Some(11), "{}", text(&empty));
    assert!(text(&empty).contains("holds no documents"), "{}", text(&empty));
    assert!(!engine.api_runs());

    let first = commands("compose-first");
    let opened = engine.run(&first);
    assert!(opened.status.success(), "{}", text(&opened));
    assert!(engine.api_runs());

    // from now on the database says itself what it is
    let planned = engine.run(&plan);
    assert_eq!(planned.status.code(), Some(0), "{}", text(&planned));
    let upgraded = engine.run(&commands("compose-upgrade"));
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    assert!(engine.api_runs());

    let image = "ghcr.io/datalab-org/datalab-upgrade:0.8.0";
    let container = commands("container").replace(image, "gate:test");
    assert_eq!(report(&engine.run(&container))["outcome"], "open");

    // a closed gate keeps it down, once it was stopped
    let stop_and_up = commands("compose-upgrade");
    let refused = engine.run(&format!("export GATE_FROM_VERSION=0.9.0\n{stop_and_up}"));
    assert!(text(&refused).contains("exit 16"), "{}", text(&refused));
    assert!(!engine.api_runs());

    // a database that an older datalab has used
    engine.empties_the_database();
    engine.inserts_an_item();
    let fresh = engine.run(&first);
    assert!(text(&fresh).contains("exit 11"), "{}", text(&fresh));
    let planned = engine.run(&from("0.7.5"));
    assert_eq!(planned.status.code(), Some(10), "{}", text(&planned));
    assert_eq!(report(&planned)["remaining"][0], "0.8.0");
    assert!(!engine.api_runs());
    let upgraded = engine.run(&first.replace("GATE_INITIALISE=fresh", "GATE_FROM_VERSION=0.7.5"));
    assert!(upgraded.status.success(), "{}", text(&upgraded));
    assert!(engine.api_runs());
    let planned = engine.run(&plan);
    assert_eq!(planned.status.code(), Some(0), "{}", text(&planned));
}

/// The image holds one program, runs it as a user who is not root, and is labelled with the program's version.
fn the_image_is_what_the_dockerfile_says(engine: &Engine) {
    let version = text(&engine.run("docker run --rm gate:test --version"));
    let version = version.trim().rsplit(' ').next().unwrap().to_owned();
    let config = engine.run("docker image inspect --format '{{json .Config}}' gate:test");
    let config: Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], version, "{config}");
    assert_eq!(config["User"], "65532:65532");
    let listed = engine.run(
        "c=$(docker create gate:test); docker export $c | tar -t | grep -v /$; docker rm $c >/dev/null",
    );
    let files = text(&listed);
    let own = ["datalab-upgrade"];
    // what the engine puts into every container for itself
    let engines =
        ["dev/", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf", ".dockerenv"];
    let others = files.lines().filter(|file| !own.contains(file));
    let strange: Vec<&str> =
        others.filter(|file| !engines.iter().any(|known| file.starts_with(known))).collect();
    assert_eq!(strange, [""; 0], "{files}");
    assert!(own.iter().all(|file| files.lines().any(|line| line == *file)), "{files}");
}
