//! Settings, files and connection strings that are wrong, and what is said of each.

use super::case::Do::{Arguments, File, Pipe, Run, Set, Shell, Told};
use super::case::{Case, On, case, up_to_date, wrong};

const URI: &str = "GATE_MONGODB_URI";
const FILE: &str = "GATE_MONGODB_URI_FILE";
const SOURCE: &str = "GATE_MONGODB_URI_SOURCE";

/// As in a pod, whose API server is not asked for anything here.
const IN_CLUSTER: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "127.0.0.1");

pub fn cases() -> Vec<Case> {
    [values(), strings(), files(), options()].into_iter().flatten().collect()
}

fn values() -> Vec<Case> {
    let opens = |remedy, before: Vec<_>, after: Vec<_>| {
        case(
            remedy,
            On::ReplicaSet,
            [up_to_date()].into_iter().chain(before).chain([Told(16)]).chain(after).chain([Run(0)]),
        )
    };
    vec![
        wrong(
            "set {name} to {}",
            &[("GATE_SKIP_CONDITIONS", "1")],
            &[("GATE_SKIP_CONDITIONS", "true")],
        ),
        wrong("{}; the nearest is {word}", &[("GATE_MODE", "chekc")], &[("GATE_MODE", "check")]),
        wrong(
            "set {name} to {next}",
            &[("GATE_FROM_VERSION", "latest")],
            &[("GATE_FROM_VERSION", "0.7.0")],
        ),
        wrong(
            "set {name} to {next}",
            &[("GATE_FROM_VERSION", "0.8.0.dev3")],
            &[("GATE_FROM_VERSION", "0.7.0")],
        ),
        wrong(
            "set {name} to {code} or earlier, or use a newer binary",
            &[("GATE_TARGET_VERSION", "0.9.0")],
            &[("GATE_TARGET_VERSION", "0.8.0")],
        ),
        wrong(
            "set {name} to a number with its unit, as in 90s or 10m",
            &[("GATE_TIMEOUT", "90")],
            &[("GATE_TIMEOUT", "90s")],
        ),
        wrong(
            "set {name} to 100ms or more, as in 30s",
            &[("GATE_LOCK_LEASE", "0s")],
            &[("GATE_LOCK_LEASE", "30s")],
        ),
        wrong(
            "set {name} to 1h or less, as in 30s",
            &[("GATE_CONNECT_TIMEOUT", "1d")],
            &[("GATE_CONNECT_TIMEOUT", "30s")],
        ),
        wrong(
            "set {name} to a number from 1 to {most}",
            &[("GATE_BATCH_DOCUMENTS", "0")],
            &[("GATE_BATCH_DOCUMENTS", "1")],
        ),
        wrong(
            "set GATE_LOG to error, warn, info, debug, trace or off, or by module, as in info,upgrade_gate=debug",
            &[("GATE_LOG", "loud")],
            &[("GATE_LOG", "info,upgrade_gate=debug")],
        ),
        wrong(
            "let the downward API set {name}, as the chart does, or unset it",
            &[("GATE_POD_NAME", "My Pod")],
            &[("GATE_POD_NAME", "gate-x7k2p")],
        ),
        wrong(
            "set {NAME} to the version of the application that is about to start",
            &[("GATE_APP_VERSION", "latest")],
            &[("GATE_APP_VERSION", "0.8.0")],
        ),
        wrong(
            "deploy the gate of {version} (its image, or its files with that version in gate.yaml), or the application of {code}: both move together",
            &[("GATE_APP_VERSION", "0.9.0")],
            &[("SCENARIO_CODE", "0.9.0")],
        ),
        wrong(
            "deploy the gate of {version} (its image, or its files with that version in gate.yaml), or the application of {code}: both move together",
            &[("GATE_APP_VERSION", "0.9.0")],
            &[("GATE_APP_VERSION", "0.8.0")],
        ),
        wrong(
            "the nearest one is {PREFIX}{nearest}, and --help lists all",
            &[("GATE_TIME_OUT", "1m")],
            &[("GATE_TIME_OUT", ""), ("GATE_TIMEOUT", "1m")],
        ),
        wrong(
            "unset {name} or change GATE_MODE",
            &[("GATE_MODE", "check"), ("GATE_TARGET_VERSION", "0.8.0")],
            &[("GATE_TARGET_VERSION", "")],
        ),
        wrong(
            "unset {name} or change GATE_MODE",
            &[("GATE_MODE", "check"), ("GATE_TARGET_VERSION", "0.8.0")],
            &[("GATE_MODE", "upgrade")],
        ),
        wrong(
            "unset {name}, or run the gate in a pod",
            &[("GATE_EVENTS", "true")],
            &[("GATE_EVENTS", "")],
        ),
        wrong(
            "write settings as NAME=value; --help lists all names",
            &[("GATE_LOG debug", "x")],
            &[("GATE_LOG debug", ""), ("GATE_LOG", "debug")],
        ),
        wrong(
            "set GATE_RECORD_VERSION to the version to record, and GATE_EXPECT_VERSION to what is stored now",
            &[("GATE_MODE", "record")],
            &[("GATE_RECORD_VERSION", "0.8.0"), ("GATE_EXPECT_VERSION", "0.8.0")],
        ),
        wrong(
            "build it with {variable} set to a released version",
            &[("SCENARIO_CODE", "0.8.0.dev4")],
            &[("SCENARIO_CODE", "0.8.0")],
        ),
        wrong(
            "set {name} to deployment/NAME or statefulset/NAME, separated by commas",
            &[IN_CLUSTER, ("GATE_QUIESCE", "lab")],
            &[("GATE_QUIESCE", "deployment/lab")],
        ),
        wrong(
            "set {NAME} to GATE_…=name, separated by commas, as in GATE_FROM_VERSION=gate.settings.fromVersion",
            &[("GATE_SETTING_NAMES", "fromVersion")],
            &[("GATE_SETTING_NAMES", "GATE_FROM_VERSION=gate.settings.fromVersion")],
        ),
        wrong(
            "set GATE_QUIESCE to the workloads that the upgrade stopped; if it stopped none, mode resume is not needed",
            &[("GATE_MODE", "resume")],
            &[("GATE_MODE", "")],
        ),
        opens(
            "other settings are environment variables, see --help",
            vec![Arguments(&["check", "--timeout=5s"])],
            vec![Arguments(&["check"]), Set("GATE_TIMEOUT", "5s")],
        ),
        opens(
            "leave out one of the two, or set {MODE} to {named} as well",
            vec![Arguments(&["check"]), Set("GATE_MODE", "plan")],
            vec![Set("GATE_MODE", "check")],
        ),
        opens(
            "leave out one of the two, or set {MODE} to {named} as well",
            vec![Arguments(&["check"]), Set("GATE_MODE", "plan")],
            vec![Arguments(&[])],
        ),
        opens(
            "set {name} to text in UTF-8",
            vec![Shell("GATE_LOG=$(printf '\\377')")],
            vec![Shell("GATE_LOG=debug")],
        ),
        case(
            "correct the table of upgrades, or the code version with which this is built",
            On::ReplicaSet,
            [
                up_to_date(),
                Set("SCENARIO_UPGRADES", "0.9.0=move_field"),
                Told(1),
                Set("SCENARIO_UPGRADES", "0.8.0=move_field"),
                Run(0),
            ],
        ),
    ]
}

/// A connection string as it must not be; the one that the remedy describes is the server's own.
fn strings() -> Vec<Case> {
    let string = |remedy, text| wrong(remedy, &[(URI, text)], &[(URI, "{uri}")]);
    vec![
        wrong(
            "set one of them, as in GATE_MONGODB_URI=mongodb://host:27017/database",
            &[(URI, "")],
            &[(URI, "{uri}")],
        ),
        wrong("unset one of them", &[(FILE, "/nowhere")], &[(FILE, "")]),
        wrong(
            "set GATE_MONGODB_URI instead",
            &[(URI, ""), (FILE, "{uri}")],
            &[(URI, "{uri}"), (FILE, "")],
        ),
        wrong(
            "set GATE_MONGODB_URI instead",
            &[(URI, ""), (FILE, "user:secret@host/db")],
            &[(URI, "{uri}"), (FILE, "")],
        ),
        wrong(
            "set GATE_MONGODB_URI instead",
            &[(URI, ""), (SOURCE, "{uri}")],
            &[(URI, "{uri}"), (SOURCE, "")],
        ),
        wrong(
            "write mongodb://user:password@host:27017/database to the {origin}, then run it again",
            &[(URI, ""), (SOURCE, "key uri of Secret lab")],
            &[(URI, "{uri}")],
        ),
        wrong(
            "set GATE_DATABASE, or write the connection string as mongodb://host:27017/database",
            &[(URI, "{hosts}")],
            &[("GATE_DATABASE", "{database}")],
        ),
        wrong(
            "set GATE_DATABASE to a MongoDB database's name",
            &[("GATE_DATABASE", "a.b")],
            &[("GATE_DATABASE", "{database}")],
        ),
        wrong(
            "set GATE_DATABASE to the application's database",
            &[("GATE_DATABASE", "config")],
            &[("GATE_DATABASE", "{database}")],
        ),
        wrong(
            "set GATE_DATABASE to the application's database, or write it into the path and add the option authSource={database}",
            &[(URI, "mongodb://127.0.0.1/admin")],
            &[(URI, "{uri}")],
        ),
        string("write it without quotation marks: mongodb://…", "\"{uri}\""),
        string(
            "write it as it is: under `data` of a Secret it is encoded once, under `stringData` not at all",
            "bW9uZ29kYjovLzEyNy4wLjAuMS9sYWI=",
        ),
        string("save it as UTF-8 without a byte-order mark", "\u{feff}{uri}"),
        string(
            "write it in one line, with special characters percent-encoded",
            "mongodb://127.0.0.1/\nlab",
        ),
        string(
            "write : in a password as %3A: special characters are percent-encoded",
            "mongodb://user:pass:word@127.0.0.1/lab",
        ),
        string(
            "write a % itself as %25: special characters are percent-encoded",
            "mongodb://user:pass%word@127.0.0.1/lab",
        ),
        string(
            "write mongodb+srv://user:password@name/database with the name in the DNS that has the hosts, or mongodb:// with all hosts",
            "mongodb+srv://a.example,b.example/lab",
        ),
        string(
            "write mongodb://user:password@host:27017/database, with special characters percent-encoded",
            "127.0.0.1:27017",
        ),
    ]
}

fn files() -> Vec<Case> {
    let file = |remedy, before: Vec<_>, code, after: Vec<_>| {
        let begin = [
            up_to_date(),
            Set(URI, ""),
            Set(FILE, "{folder}/uri"),
            Set("GATE_TIMEOUT", "0s"),
            File("right", "{uri}\n"),
        ];
        case(
            remedy,
            On::ReplicaSet,
            begin
                .into_iter()
                .chain(before)
                .chain([Told(code)])
                .chain(after)
                .chain([Set("GATE_TIMEOUT", ""), Run(0)]),
        )
    };
    let right = || vec![File("uri", "{uri}")];
    vec![
        file(
            "write mongodb://user:password@host:27017/database to it, then run it again",
            vec![],
            20,
            right(),
        ),
        file(
            "write mongodb://user:password@host:27017/database to it, then run it again",
            vec![File("uri", "\n")],
            20,
            right(),
        ),
        file(
            "name the file in it, as in /secrets/mongodb/uri",
            vec![Set(FILE, "{folder}")],
            16,
            vec![Set(FILE, "{folder}/right")],
        ),
        file(
            "mount the Secret there so that the user of this program can read it",
            vec![Set(FILE, "{folder}/right/uri")],
            16,
            vec![Set(FILE, "{folder}/right")],
        ),
        file(
            "name an ordinary file, or start what writes to the pipe first",
            vec![Pipe("uri")],
            16,
            vec![Set(FILE, "{folder}/right")],
        ),
        file(
            "name the file that holds the connection string and nothing else",
            vec![Set(FILE, "/proc/self/exe")],
            16,
            vec![Set(FILE, "{folder}/right")],
        ),
        file(
            "save it as UTF-8, without a byte-order mark",
            vec![File("uri", "\u{feff}{uri}")],
            16,
            right(),
        ),
        file(
            "keep only the connection string in it, on one line",
            vec![File("uri", "{uri}\n{uri}\n")],
            16,
            right(),
        ),
    ]
}

/// Options that are wrong, and none or others in their place.
fn options() -> Vec<Case> {
    let option = |remedy, text| wrong(remedy, &[(URI, text)], &[(URI, "{uri}")]);
    vec![
        option(
            "keep one of them",
            "{uri}&tls=true&tlsInsecure=true&tlsAllowInvalidCertificates=true",
        ),
        option("keep one of them{}", "{uri}&tls=true&ssl=false"),
        option("give {name} a value, or remove it", "{uri}&authSource="),
        option(
            "write a % in the value of {name} as %25, and every byte of a character as % and two hexadecimal digits",
            "{uri}&authSource=%",
        ),
        wrong(
            "set {name} to {}",
            &[(URI, "{uri}&directConnection=perhaps")],
            &[(URI, "{uri}&directConnection=true")],
        ),
        option("remove {name}, or write mongodb+srv://", "mongodb://127.0.0.1/lab?srvMaxHosts=1"),
        option(
            "add {what} to the connection string, or remove authMechanism",
            "{uri}&authMechanism=SCRAM-SHA-256",
        ),
        option(
            "remove the {what} from the connection string, or remove authMechanism",
            "mongodb://user:password@127.0.0.1/lab?authMechanism=MONGODB-X509",
        ),
        option(
            "give this program a user that logs in with {}, in a connection string of its own",
            "{uri}&authMechanism=GSSAPI",
        ),
        option(
            "set authMechanismProperties=ENVIRONMENT:k8s, or give this program a user that logs in with SCRAM-SHA-256",
            "{uri}&authMechanism=MONGODB-OIDC",
        ),
        option("set tls=true, or remove {name}", "{uri}&tls=false&tlsCAFile=/ca.pem"),
        option(
            "this program connects without a proxy: name hosts that it can reach",
            "{uri}&proxyHost=proxy",
        ),
        option(
            "this program reads no lists of revoked certificates: remove the option from this program's string",
            "{uri}&tlsCRLFile=/crl.pem",
        ),
        option(
            "name hosts of the same domain in the DNS, or write mongodb:// with all members",
            "{uri}&srvAllowedHostsSuffix=example",
        ),
        option("name the database in the path, or set GATE_DATABASE", "{hosts}&dbName=lab"),
        option("name the database in the path, or set GATE_DATABASE", "{uri}&dbName=lab"),
        option(
            "name a file in PEM format with the options tlsCAFile and tlsCertificateKeyFile",
            "{uri}&tls=true&tlsCAFile={folder}",
        ),
        option(
            "check the options tlsCAFile and tlsCertificateKeyFile in GATE_MONGODB_URI; for a certificate that a public \
             authority signed leave tlsCAFile out",
            "{uri}&tls=true&tlsCAFile=/nowhere/ca.pem",
        ),
    ]
}
