//! The options of a connection string, and what is done with each: one table, which docs/mongodb.md shows.
//!
//! The string is the application's own, so that whatever a driver accepts must be accepted here. The names
//! are those of the MongoDB URI options specification, of PyMongo, Node, Java and the older names of each.

use std::collections::BTreeMap;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use Handling::{Honoured, Ignored, Own, Refused, Tuned};
use Kind::{Flag, Mechanism, Number, Text, Words};

/// A name that an option may have, and what is done with it.
pub(super) struct UriOption {
    /// As the specification, or else the driver that has it, spells it.
    pub(super) name: &'static str,
    pub(super) handling: Handling,
    /// Why it is ignored, or what to do where it is refused.
    pub(super) note: &'static str,
}

/// What is done with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    /// It says whom to talk to, as whom or how securely: it is given to the driver, and a value that cannot
    /// be read closes the gate.
    Honoured(Kind),
    /// It is given to the driver; a value that cannot be read is ignored with a warning.
    Tuned(Kind),
    /// The gate has its own way, which these values agree with; others are ignored with a warning.
    Own(&'static [&'static str]),
    /// It has no use here, and a warning says so.
    Ignored,
    /// It would change whom the gate talks to, as whom or how securely, and cannot be honoured.
    Refused,
}

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Flag,
    /// A whole number, at least this.
    Number(u32),
    Words(&'static [&'static str]),
    Mechanism,
}

const NO_USE: &str = "this program has no use for it";
const OWN_WAY: &str = "this program reads and writes with a majority, from the primary";
const ONE_FILE: &str =
    "write certificate and key to one file and name it with tlsCertificateKeyFile";
const CA_FILE: &str = "name the file of the authority with tlsCAFile";
const NO_PASSPHRASE: &str = "write the key to the file of tlsCertificateKeyFile without a password, and keep that file secret";
const NO_PROXY: &str = "this program connects without a proxy: name hosts that it can reach";
const NOT_CHECKED: &str = "it switches off a check that this program does not make";
const NO_HOST_CHECK: &str = "connect by a name that the server's certificate holds, or set \
                             tlsAllowInvalidCertificates=true, which switches off every check";
const NODE_TLS: &str = "write the TLS options of the MongoDB specification instead: tls, tlsCAFile, \
                        tlsCertificateKeyFile";
const DATABASE: &str = "name the database in the path, or set GATE_DATABASE";

/// Every option that is known by name.
#[rustfmt::skip]
pub(super) const URI_OPTIONS: &[UriOption] = &[
    // whom to talk to
    option("replicaSet", Honoured(Text), ""),
    option("directConnection", Honoured(Flag), ""),
    option("loadBalanced", Honoured(Flag), ""),
    option("srvServiceName", Honoured(Text), ""),
    option("srvMaxHosts", Honoured(Number(0)), ""),
    option("srvAllowedHostsSuffix", Refused, "name hosts of the same domain in the DNS, or write mongodb:// with all members"),
    option("connect", Tuned(Words(&["direct"])), "only connect=direct has a meaning here, that of directConnection=true"),
    option("dbName", Refused, DATABASE),
    option("proxyHost", Refused, NO_PROXY),
    option("proxyPort", Refused, NO_PROXY),
    option("proxyUsername", Refused, NO_PROXY),
    option("proxyPassword", Refused, NO_PROXY),
    // as whom
    option("authSource", Honoured(Text), ""),
    option("authMechanism", Honoured(Mechanism), ""),
    option("authMechanismProperties", Honoured(Text), ""),
    option("gssapiServiceName", Ignored, NO_USE),
    option("authOIDCAllowedHosts", Ignored, NO_USE),
    // how securely
    option("tls", Honoured(Flag), ""),
    option("ssl", Honoured(Flag), ""),
    option("tlsCAFile", Honoured(Text), ""),
    option("tlsCertificateKeyFile", Honoured(Text), ""),
    option("tlsInsecure", Honoured(Flag), ""),
    option("tlsAllowInvalidCertificates", Honoured(Flag), ""),
    option("tlsAllowInvalidHostnames", Honoured(Flag), NO_HOST_CHECK),
    option("sslInvalidHostNameAllowed", Honoured(Flag), NO_HOST_CHECK),
    option("tlsDisableOCSPEndpointCheck", Ignored, NOT_CHECKED),
    option("tlsDisableCertificateRevocationCheck", Ignored, NOT_CHECKED),
    option("tlsCertificateKeyFilePassword", Refused, NO_PASSPHRASE),
    option("tlsCertificateFile", Refused, ONE_FILE),
    option("tlsCRLFile", Refused, "this program reads no lists of revoked certificates: remove the option from this program's string"),
    option("tlsUseSystemCA", Refused, CA_FILE),
    option("ssl_ca_certs", Refused, CA_FILE),
    option("sslCA", Refused, CA_FILE),
    option("sslCAFile", Refused, CA_FILE),
    option("sslCertificateAuthorityFile", Refused, CA_FILE),
    option("ssl_certfile", Refused, ONE_FILE),
    option("ssl_keyfile", Refused, ONE_FILE),
    option("sslCert", Refused, ONE_FILE),
    option("sslKey", Refused, ONE_FILE),
    option("sslClientCertificateKeyFile", Refused, ONE_FILE),
    option("ssl_pem_passphrase", Refused, NO_PASSPHRASE),
    option("sslPass", Refused, NO_PASSPHRASE),
    option("sslClientCertificateKeyPassword", Refused, NO_PASSPHRASE),
    option("ssl_cert_reqs", Refused, NODE_TLS),
    option("ssl_match_hostname", Refused, NODE_TLS),
    option("ssl_crlfile", Refused, NODE_TLS),
    option("sslCRL", Refused, NODE_TLS),
    option("sslValidate", Refused, NODE_TLS),
    option("sslInsecure", Refused, NODE_TLS),
    option("sslVerifyCertificate", Refused, NODE_TLS),
    option("rejectUnauthorized", Refused, NODE_TLS),
    option("checkServerIdentity", Refused, NODE_TLS),
    option("servername", Refused, NODE_TLS),
    option("ca", Refused, NODE_TLS),
    option("cert", Refused, NODE_TLS),
    option("key", Refused, NODE_TLS),
    option("passphrase", Refused, NODE_TLS),
    option("pfx", Refused, NODE_TLS),
    option("crl", Refused, NODE_TLS),
    option("ciphers", Refused, NODE_TLS),
    option("ecdhCurve", Refused, NODE_TLS),
    option("minDHSize", Refused, NODE_TLS),
    option("secureContext", Refused, NODE_TLS),
    option("secureProtocol", Refused, NODE_TLS),
    // given to the driver
    option("appName", Tuned(Text), "a name has at most 128 bytes"),
    option("heartbeatFrequencyMS", Tuned(Number(500)), "it is a number of milliseconds, at least 500"),
    option("localThresholdMS", Tuned(Number(0)), "it is a number of milliseconds"),
    option("retryReads", Tuned(Flag), "it is true or false"),
    option("retryWrites", Tuned(Flag), "it is true or false"),
    option("serverMonitoringMode", Tuned(Words(&["auto", "poll", "stream"])), "it is auto, poll or stream"),
    // done in this program's own way
    option("w", Own(&["majority"]), OWN_WAY),
    option("journal", Own(&["true"]), OWN_WAY),
    option("j", Own(&["true"]), OWN_WAY),
    option("readConcernLevel", Own(&["majority"]), OWN_WAY),
    option("readPreference", Own(&["primary"]), OWN_WAY),
    option("readPreferenceTags", Own(&[""]), OWN_WAY),
    option("maxStalenessSeconds", Own(&["-1"]), OWN_WAY),
    option("fsync", Ignored, OWN_WAY),
    option("safe", Ignored, OWN_WAY),
    option("slaveOk", Ignored, OWN_WAY),
    option("wtimeout", Ignored, OWN_WAY),
    option("wtimeoutMS", Ignored, OWN_WAY),
    option("connectTimeoutMS", Ignored, "GATE_CONNECT_TIMEOUT says how long to wait for a server"),
    option("serverSelectionTimeoutMS", Ignored, "GATE_CONNECT_TIMEOUT says how long to wait for a server"),
    option("serverSelectionTryOnce", Ignored, "GATE_TIMEOUT=0s asks once"),
    // of no use
    option("adaptiveRetries", Ignored, NO_USE),
    option("autoReconnect", Ignored, NO_USE),
    option("bsonRegExp", Ignored, NO_USE),
    option("compressors", Ignored, NO_USE),
    option("datetime_conversion", Ignored, NO_USE),
    option("document_class", Ignored, NO_USE),
    option("driver", Ignored, NO_USE),
    option("driverInfo", Ignored, NO_USE),
    option("enableOverloadRetargeting", Ignored, NO_USE),
    option("family", Ignored, NO_USE),
    option("fieldsAsRaw", Ignored, NO_USE),
    option("forceServerObjectId", Ignored, NO_USE),
    option("guids", Ignored, NO_USE),
    option("ignoreUndefined", Ignored, NO_USE),
    option("ipv6", Ignored, NO_USE),
    option("keepAlive", Ignored, NO_USE),
    option("keepAliveInitialDelay", Ignored, NO_USE),
    option("localAddress", Ignored, NO_USE),
    option("localPort", Ignored, NO_USE),
    option("maxAdaptiveRetries", Ignored, NO_USE),
    option("maxConnecting", Ignored, NO_USE),
    option("maxIdleTimeMS", Ignored, NO_USE),
    option("maxLifeTimeMS", Ignored, NO_USE),
    option("maxPoolSize", Ignored, NO_USE),
    option("minHeartbeatFrequencyMS", Ignored, NO_USE),
    option("minInternalBufferSize", Ignored, NO_USE),
    option("minPoolSize", Ignored, NO_USE),
    option("monitorCommands", Ignored, NO_USE),
    option("noDelay", Ignored, NO_USE),
    option("poolSize", Ignored, NO_USE),
    option("promoteBuffers", Ignored, NO_USE),
    option("promoteLongs", Ignored, NO_USE),
    option("promoteValues", Ignored, NO_USE),
    option("raw", Ignored, NO_USE),
    option("serializeFunctions", Ignored, NO_USE),
    option("server_api", Ignored, NO_USE),
    option("serverApi", Ignored, NO_USE),
    option("socketTimeoutMS", Ignored, NO_USE),
    option("streamType", Ignored, NO_USE),
    option("timeoutMS", Ignored, NO_USE),
    option("tz_aware", Ignored, NO_USE),
    option("tzinfo", Ignored, NO_USE),
    option("unicode_decode_error_handler", Ignored, NO_USE),
    option("useNewUrlParser", Ignored, NO_USE),
    option("useUnifiedTopology", Ignored, NO_USE),
    option("uuidRepresentation", Ignored, NO_USE),
    option("waitQueueMultiple", Ignored, NO_USE),
    option("waitQueueSize", Ignored, NO_USE),
    option("waitQueueTimeoutMS", Ignored, NO_USE),
    option("zlibCompressionLevel", Ignored, NO_USE),
];

/// The mechanisms that are built in, and those that are known and are not.
const BUILT_IN: [&str; 5] =
    ["SCRAM-SHA-1", "SCRAM-SHA-256", "MONGODB-X509", "PLAIN", "MONGODB-OIDC"];
const NOT_BUILT_IN: [&str; 3] = ["GSSAPI", "MONGODB-AWS", "MONGODB-CR"];

/// As the driver, and the server, bound it.
const APP_NAME: usize = 128;

const fn option(name: &'static str, handling: Handling, note: &'static str) -> UriOption {
    UriOption { name, handling, note }
}

/// What the rest of a connection string says that its options depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    pub(super) srv: bool,
    pub(super) hosts: usize,
    pub(super) user: bool,
    pub(super) password: bool,
    /// Whether an `@` stands before the `?`.
    pub(super) at_before: bool,
}

/// What the options come to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    /// As the driver takes them.
    pub(super) driver: String,
    /// What is ignored: each a sentence without its subject, "option x is ignored: why".
    pub(super) ignored: Vec<String>,
    pub(super) auth_source: Option<String>,
    /// Users are not looked up in a database of this server.
    pub(super) external: bool,
}

/// Why options cannot be used.
#[derive(Debug, PartialEq)]
pub(super) enum Wrong {
    /// What is said of them, and what to do. Holds no value of an option.
    Option(String, String),
    /// They are not options but a part of a password.
    Unescaped,
}

type Given = BTreeMap<&'static str, String>;

/// Reads what follows the `?`.
pub(super) fn read(options: &str, around: Around) -> Result<Read, Wrong> {
    let mut read = Read::default();
    let mut given = Given::new();
    let at_follows = options.contains('@');
    for pair in options.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let (written, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        if written.contains('@') {
            return Err(Wrong::Unescaped);
        }
        let name = percent_decode_str(written).decode_utf8_lossy();
        let known = URI_OPTIONS.iter().find(|known| known.name.eq_ignore_ascii_case(&name));
        match known {
            Some(known) => keep(known, value, &mut given, &mut read)?,
            None => unknown(&name, value, at_follows, around, &mut read)?,
        }
    }
    combine(given, around, read)
}

fn wrong(said: impl Into<String>, next: impl Into<String>) -> Wrong {
    Wrong::Option(said.into(), next.into())
}

/// A name that no table has: it may be a slip, or a part of a password.
fn unknown(
    name: &str,
    value: Option<&str>,
    at_follows: bool,
    around: Around,
    read: &mut Read,
) -> Result<(), Wrong> {
    if at_follows && !around.at_before {
        return Err(Wrong::Unescaped);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let tame = (1..=64).contains(&name.len()) && name.chars().all(plain);
    if at_follows || !tame || value.is_none() {
        read.ignored.push(
            "an option that no MongoDB specification knows is ignored; it is not named, as it might be \
             a part of the password"
                .to_owned(),
        );
        return Ok(());
    }
    let start = name.to_ascii_lowercase();
    if start.starts_with("tls") || start.starts_with("ssl") {
        return Err(wrong(
            format!("has the TLS option {name}, which no MongoDB specification knows"),
            NODE_TLS,
        ));
    }
    read.ignored.push(format!("option {name} is ignored: no MongoDB specification knows it"));
    Ok(())
}

/// Notes what one known option says.
fn keep(
    known: &UriOption,
    value: Option<&str>,
    given: &mut Given,
    read: &mut Read,
) -> Result<(), Wrong> {
    let name = known.name;
    let ignored =
        |read: &mut Read| read.ignored.push(format!("option {name} is ignored: {}", known.note));
    let decoded = || decoded(value.unwrap_or_default());
    match known.handling {
        Ignored => ignored(read),
        Own(agreed) => {
            let value = decoded().unwrap_or_default();
            if !agreed.iter().any(|agreed| agreed.eq_ignore_ascii_case(&value)) {
                ignored(read);
            }
        }
        Tuned(kind) => match decoded().and_then(|value| kind.read(&value)) {
            Some(value) if name != "appName" || value.len() <= APP_NAME => {
                given.insert(name, value);
            }
            _ => ignored(read),
        },
        Refused => {
            return Err(wrong(
                format!("has the option {name}, which this program cannot honour"),
                known.note,
            ));
        }
        Honoured(kind) => {
            let Some(value) = decoded() else {
                return Err(wrong(
                    format!("has the option {name} with a % in its value that begins no character"),
                    format!(
                        "write a % in the value of {name} as %25, and every byte of a character as % and two hexadecimal digits"
                    ),
                ));
            };
            if value.is_empty() {
                if matches!(name, "replicaSet" | "srvServiceName" | "authMechanismProperties") {
                    read.ignored.push(format!("option {name} is ignored: it has no value"));
                    return Ok(());
                }
                return Err(wrong(
                    format!("has the option {name} without a value"),
                    format!("give {name} a value, or remove it"),
                ));
            }
            let Some(value) = kind.read(&value) else {
                return Err(match kind {
                    Mechanism => mechanism(&value),
                    _ => wrong(
                        format!("has the option {name} with a value that cannot be read"),
                        format!("set {name} to {}", kind.describe()),
                    ),
                });
            };
            let name = match name {
                "ssl" => "tls",
                "sslInvalidHostNameAllowed" => "tlsAllowInvalidHostnames",
                name => name,
            };
            match given.insert(name, value.clone()) {
                Some(before) if before != value => {
                    return Err(wrong(
                        format!("has the option {name} twice, with different values"),
                        format!(
                            "keep one of them{}",
                            if name == "tls" { " (ssl is another name of tls)" } else { "" }
                        ),
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A value without its percent-encoding; `None` if that is broken.
fn decoded(value: &str) -> Option<String> {
    if !is_percent_encoded(value) {
        return None;
    }
    percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(super) fn is_percent_encoded(text: &str) -> bool {
    let digits =
        |part: &str| part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    text.split('%').skip(1).all(digits)
}

impl Kind {
    /// The value as the driver takes it.
    fn read(self, value: &str) -> Option<String> {
        let lower = value.to_ascii_lowercase();
        match self {
            Text => Some(value.to_owned()).filter(|value| !value.is_empty()),
            Flag => match lower.as_str() {
                "true" | "t" | "yes" | "y" | "1" => Some("true".to_owned()),
                "false" | "f" | "no" | "n" | "0" | "-1" => Some("false".to_owned()),
                _ => None,
            },
            Number(least) => {
                value.parse().ok().filter(|n: &u32| *n >= least).map(|n| n.to_string())
            }
            Words(words) => words.contains(&lower.as_str()).then_some(lower),
            Mechanism => {
                let name = value.to_ascii_uppercase();
                (BUILT_IN.contains(&name.as_str()) || name == "DEFAULT").then_some(name)
            }
        }
    }

    fn describe(self) -> String {
        match self {
            Text => "a text".to_owned(),
            Flag => "true or false".to_owned(),
            Number(least) => format!("a whole number, at least {least}"),
            Words(words) => words.join(" or "),
            Mechanism => BUILT_IN.join(" or "),
        }
    }
}

/// A mechanism that is not built in, which is named where it is one.
fn mechanism(value: &str) -> Wrong {
    let known = NOT_BUILT_IN.iter().find(|known| known.eq_ignore_ascii_case(value));
    wrong(
        match known {
            Some(known) => format!("has the option authMechanism={known}, which is not built in"),
            None => "has the option authMechanism with a value that is not built in".to_owned(),
        },
        format!(
            "give this program a user that logs in with {}, in a connection string of its own",
            BUILT_IN.join(" or ")
        ),
    )
}

/// What the options come to together.
fn combine(mut given: Given, around: Around, mut read: Read) -> Result<Read, Wrong> {
    let is = |given: &Given, name: &str, value: &str| given.get(name).is_some_and(|v| v == value);
    if given.remove("connect").is_some() {
        given.entry("directConnection").or_insert_with(|| "true".to_owned());
    }
    authentication(&mut given, around, &mut read)?;
    encryption(&mut given, around, &mut read)?;
    let direct = is(&given, "directConnection", "true");
    let balanced = is(&given, "loadBalanced", "true");
    let limited = given.get("srvMaxHosts").is_some_and(|n| n != "0");
    let together = |one: &str, other: &str| {
        wrong(format!("has {one} and {other}, which exclude each other"), "keep one of them")
    };
    if direct && around.srv {
        return Err(together("mongodb+srv://", "directConnection=true"));
    }
    if direct && around.hosts > 1 {
        return Err(together("several hosts", "directConnection=true"));
    }
    if balanced && around.hosts > 1 {
        return Err(together("several hosts", "loadBalanced=true"));
    }
    if balanced && direct {
        return Err(together("directConnection=true", "loadBalanced=true"));
    }
    if balanced && given.contains_key("replicaSet") {
        return Err(together("the option replicaSet", "loadBalanced=true"));
    }
    if limited && given.contains_key("replicaSet") {
        return Err(together("the option replicaSet", "the option srvMaxHosts"));
    }
    if limited && balanced {
        return Err(together("loadBalanced=true", "the option srvMaxHosts"));
    }
    for name in ["srvServiceName", "srvMaxHosts"] {
        if !around.srv && given.remove(name).is_some() {
            return Err(wrong(
                format!("has the option {name}, which only mongodb+srv:// has"),
                format!("remove {name}, or write mongodb+srv://"),
            ));
        }
    }
    // the driver reads TLS options in their order
    let first = given.remove_entry("tls");
    let pairs: Vec<String> = first
        .into_iter()
        .chain(given)
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)))
        .collect();
    read.driver = pairs.join("&");
    Ok(read)
}

/// As whom.
fn authentication(given: &mut Given, around: Around, read: &mut Read) -> Result<(), Wrong> {
    given.retain(|name, value| *name != "authMechanism" || value != "DEFAULT");
    let mechanism = given.get("authMechanism").cloned();
    read.auth_source = given.get("authSource").cloned();
    read.external = read.auth_source.as_deref() == Some("$external")
        || matches!(mechanism.as_deref(), Some("MONGODB-X509" | "PLAIN" | "MONGODB-OIDC"));
    let is_oidc = mechanism.as_deref() == Some("MONGODB-OIDC");
    if !is_oidc && given.remove("authMechanismProperties").is_some() {
        read.ignored.push(format!("option authMechanismProperties is ignored: {NO_USE}"));
    }
    let Some(mechanism) = mechanism else { return Ok(()) };
    let need = |what: &str| {
        Err(wrong(
            format!("has authMechanism={mechanism}, which needs {what}"),
            format!("add {what} to the connection string, or remove authMechanism"),
        ))
    };
    let excess = |what: &str| {
        Err(wrong(
            format!("has authMechanism={mechanism}, which takes no {what}"),
            format!("remove the {what} from the connection string, or remove authMechanism"),
        ))
    };
    let source = given.get("authSource").map(String::as_str);
    match mechanism.as_str() {
        "SCRAM-SHA-1" | "SCRAM-SHA-256" if !around.user => need("a user name"),
        "PLAIN" if !around.user => need("a user name"),
        "PLAIN" if !around.password => need("a password"),
        "MONGODB-X509" | "MONGODB-OIDC" if around.password => excess("password"),
        "MONGODB-X509" | "MONGODB-OIDC" if !matches!(source, None | Some("$external")) => {
            Err(wrong(
                format!("has authMechanism={mechanism} with another authSource than $external"),
                "remove authSource",
            ))
        }
        "MONGODB-OIDC" => {
            let in_kubernetes = given
                .get("authMechanismProperties")
                .is_some_and(|properties| properties.split(',').any(|p| p == "ENVIRONMENT:k8s"));
            match in_kubernetes {
                true => Ok(()),
                false => Err(wrong(
                    "has authMechanism=MONGODB-OIDC, of which only the environment of Kubernetes is \
                     built in",
                    "set authMechanismProperties=ENVIRONMENT:k8s, or give this program a user that \
                     logs in with SCRAM-SHA-256",
                )),
            }
        }
        _ => Ok(()),
    }
}

/// How securely.
fn encryption(given: &mut Given, around: Around, read: &mut Read) -> Result<(), Wrong> {
    const NEED_TLS: [&str; 4] =
        ["tlsCAFile", "tlsCertificateKeyFile", "tlsInsecure", "tlsAllowInvalidCertificates"];
    let is_true = |given: &Given, name: &str| given.get(name).is_some_and(|v| v == "true");
    if given.contains_key("tlsInsecure") && given.contains_key("tlsAllowInvalidCertificates") {
        return Err(wrong(
            "has tlsInsecure and tlsAllowInvalidCertificates, which exclude each other",
            "keep one of them",
        ));
    }
    let off = given.get("tls").is_some_and(|tls| tls == "false");
    if off {
        if let Some(name) =
            ["tlsCAFile", "tlsCertificateKeyFile"].into_iter().find(|name| given.contains_key(name))
        {
            return Err(wrong(
                format!("has tls=false and the option {name}, which needs TLS"),
                format!("set tls=true, or remove {name}"),
            ));
        }
        for name in ["tlsInsecure", "tlsAllowInvalidCertificates"] {
            if given.remove(name).is_some() {
                read.ignored.push(format!("option {name} is ignored: tls is false"));
            }
        }
    }
    let tls = !off
        && (is_true(given, "tls")
            || around.srv
            || NEED_TLS.iter().any(|name| given.contains_key(name)));
    if let Some(invalid) = given.remove("tlsAllowInvalidHostnames").filter(|v| v == "true") {
        let unchecked =
            is_true(given, "tlsInsecure") || is_true(given, "tlsAllowInvalidCertificates");
        if tls && !unchecked && invalid == "true" {
            return Err(wrong(
                "has tlsAllowInvalidHostnames=true, which this program cannot honour",
                NO_HOST_CHECK,
            ));
        }
        let why = if unchecked { "no certificate is checked" } else { "there is no TLS" };
        read.ignored.push(format!("option tlsAllowInvalidHostnames is ignored: {why}"));
    }
    Ok(())
}

/// The options as Markdown, for the guide.
#[cfg(test)]
pub(crate) fn markdown_uri_options() -> String {
    let list = |wanted: &dyn Fn(&UriOption) -> bool| {
        let names: Vec<String> = URI_OPTIONS
            .iter()
            .filter(|option| wanted(option))
            .map(|option| format!("`{}`", option.name))
            .collect();
        names.join(", ")
    };
    let mut table = String::from("| options | what is done with them |\n| --- | --- |\n");
    let mut row = |names: String, what: &str| table += &format!("| {names} | {what} |\n");
    row(list(&|o| matches!(o.handling, Honoured(_))), "honoured");
    row(
        list(&|o| matches!(o.handling, Tuned(_))),
        "honoured; a value that cannot be read is ignored with a warning",
    );
    row(
        list(&|o| matches!(o.handling, Own(_))),
        "this program reads and writes with a majority, from the primary; other values are ignored with a warning",
    );
    for (handling, outcome) in [(Ignored, "ignored with a warning"), (Refused, "refused (16)")] {
        let mut notes: Vec<&str> = Vec::new();
        for option in URI_OPTIONS.iter().filter(|option| option.handling == handling) {
            if !notes.contains(&option.note) {
                notes.push(option.note);
            }
        }
        for note in notes {
            let names = list(&|o| o.handling == handling && o.note == note);
            row(names, &format!("{outcome}: {note}"));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Around =
        Around { srv: false, hosts: 1, user: true, password: true, at_before: true };

    fn ok(options: &str) -> Read {
        read(options, PLAIN).unwrap_or_else(|wrong| panic!("{options}: {wrong:?}"))
    }

    #[track_caller]
    fn says(options: &str, around: Around, parts: &[&str]) {
        match read(options, around) {
            Err(Wrong::Option(said, next)) => {
                let text = format!("{said}: {next}");
                assert!(!text.contains("s3cret"), "{text}");
                for part in parts {
                    assert!(text.contains(part), "{options}: {text:?} lacks {part:?}");
                }
            }
            other => panic!("{options}: {other:?}"),
        }
    }

    /// A value that an option's row takes, and one that it does not.
    fn values(option: &UriOption) -> (String, Option<&'static str>) {
        match option.handling {
            Honoured(kind) | Tuned(kind) => match kind {
                Text => ("x".to_owned(), None),
                Flag => ("true".to_owned(), Some("s3cret")),
                Number(least) => (least.to_string(), Some("s3cret")),
                Words(words) => (words[0].to_owned(), Some("s3cret")),
                Mechanism => ("SCRAM-SHA-256".to_owned(), Some("s3cret")),
            },
            Own(agreed) => (agreed[0].to_owned(), Some("s3cret")),
            Ignored | Refused => ("s3cret".to_owned(), None),
        }
    }

    #[test]
    fn every_row_of_the_table_does_what_it_says_in_any_case_of_its_name() {
        for option in URI_OPTIONS {
            let around = match option.name {
                "srvServiceName" | "srvMaxHosts" => Around { srv: true, ..PLAIN },
                _ => PLAIN,
            };
            let (good, bad) = values(option);
            for name in [
                option.name.to_owned(),
                option.name.to_ascii_uppercase(),
                option.name.to_ascii_lowercase(),
            ] {
                let outcome = read(&format!("{name}={good}"), around);
                let named =
                    |read: &Read| read.ignored.len() == 1 && read.ignored[0].contains(option.name);
                match option.handling {
                    Refused => says(&format!("{name}={good}"), around, &[option.name, option.note]),
                    Ignored => assert!(named(&outcome.unwrap()), "{name}"),
                    Own(_) => assert_eq!(outcome.unwrap(), Read::default(), "{name}"),
                    Honoured(_)
                        if matches!(
                            option.name,
                            "tlsAllowInvalidHostnames" | "sslInvalidHostNameAllowed"
                        ) =>
                    {
                        // without TLS there is nothing to check
                        assert_eq!(outcome.unwrap().ignored.len(), 1);
                        says(
                            &format!("tls=true&{name}={good}"),
                            around,
                            &["tlsAllowInvalidHostnames"],
                        );
                        assert_eq!(ok(&format!("{name}=false")), Read::default());
                    }
                    Honoured(_) if option.name == "authMechanismProperties" => {
                        assert!(named(&outcome.unwrap()));
                    }
                    Honoured(_) | Tuned(_) => {
                        let outcome = outcome.unwrap();
                        assert!(outcome.ignored.is_empty(), "{name}: {outcome:?}");
                        assert!(outcome.driver.contains('='), "{name}");
                    }
                }
                let Some(bad) = bad else { continue };
                match option.handling {
                    Honoured(_) => says(&format!("{name}={bad}"), around, &[option.name]),
                    _ => {
                        let read = read(&format!("{name}={bad}"), around).unwrap();
                        assert!(named(&read) && !read.ignored[0].contains("s3cret"), "{read:?}");
                        assert_eq!(read.driver, "");
                    }
                }
            }
        }
        let mut names: Vec<_> = URI_OPTIONS.iter().map(|o| o.name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), URI_OPTIONS.len(), "a name is in the table once");
    }

    #[test]
    fn the_driver_takes_whatever_is_given_to_it() {
        use mongodb::options::ConnectionString;
        for option in URI_OPTIONS {
            if !matches!(option.handling, Honoured(_) | Tuned(_)) {
                continue;
            }
            let srv = matches!(option.name, "srvServiceName" | "srvMaxHosts");
            let read =
                read(&format!("{}={}", option.name, values(option).0), Around { srv, ..PLAIN });
            let scheme = if srv { "mongodb+srv" } else { "mongodb" };
            let uri = format!("{scheme}://u:p@a.example.org/lab?{}", read.unwrap().driver);
            ConnectionString::parse(&uri).unwrap_or_else(|error| panic!("{uri}: {error}"));
        }
        let all = "tlsCAFile=/a%20b&tls=true&tlsAllowInvalidCertificates=1&replicaSet=rs0&appName=@x@\
                   &authSource=admin&authMechanism=scram-sha-256&retryWrites=no&connect=direct";
        let read = ok(all);
        assert_eq!(read.ignored, [""; 0]);
        ConnectionString::parse(format!("mongodb://u:p@a/lab?{}", read.driver)).unwrap();
        assert!(read.driver.starts_with("tls=true&"), "{}", read.driver);
        assert!(
            read.driver.contains("directConnection=true")
                && read.driver.contains("appName=%40x%40")
        );
    }

    #[test]
    fn what_an_atlas_string_says_needs_no_warning() {
        assert_eq!(ok("retryWrites=true&w=majority").driver, "retryWrites=true");
        assert_eq!(
            ok("retryWrites=true&w=majority&journal=true&readPreference=primary").ignored,
            [""; 0]
        );
        assert_eq!(ok("").driver, "");
        assert_eq!(ok("&&replicaSet=rs0&").driver, "replicaSet=rs0");
        assert_eq!(ok("replicaSet=rs0;w=majority").driver, "replicaSet=rs0");
        assert_eq!(ok("authMechanism=DEFAULT"), Read::default());
    }

    #[test]
    fn a_name_that_is_not_known_is_shown_only_where_it_cannot_be_a_part_of_a_password() {
        assert_eq!(
            ok("foo=1").ignored,
            ["option foo is ignored: no MongoDB specification knows it"]
        );
        for hidden in ["s3cret=a@b", "s3cret", "s3cret%20x=1", "s3cret!=1", &"s3cret".repeat(20)] {
            let read = ok(hidden);
            assert_eq!(read.ignored.len(), 1, "{hidden}");
            assert!(!read.ignored[0].contains("s3cret"), "{hidden}");
        }
        for (password, at_before) in [
            ("s3cret@host/db", true),
            ("x@host/db", false),
            ("a=1&s3cret@host/db", false),
            ("a=1@host/db", false),
        ] {
            let around = Around { at_before, ..PLAIN };
            assert_eq!(read(password, around), Err(Wrong::Unescaped), "{password}");
        }
        // a known option may hold one
        let around = Around { at_before: false, user: false, password: false, ..PLAIN };
        assert_eq!(read("appName=a@b", around).unwrap().driver, "appName=a%40b");
    }

    #[test]
    fn what_would_change_whom_it_talks_to_or_how_securely_is_refused_by_name() {
        for (options, parts) in [
            ("authMechanism=GSSAPI", &["authMechanism=GSSAPI", "not built in"][..]),
            ("authMechanism=mongodb-aws", &["authMechanism=MONGODB-AWS"]),
            ("authMechanism=s3cret", &["authMechanism with a value"]),
            ("authMechanism=MONGODB-OIDC", &["MONGODB-OIDC"]),
            ("authMechanism=MONGODB-X509", &["takes no password"]),
            ("authSource=", &["authSource without a value"]),
            ("authSource", &["authSource without a value"]),
            ("authSource=a%ZZ", &["authSource", "%25"]),
            ("authSource=%FF", &["authSource"]),
            ("tls=maybe", &["tls", "true or false"]),
            ("tls=true&ssl=false", &["tls twice"]),
            ("replicaSet=a&replicaSet=b", &["replicaSet twice"]),
            ("tls=false&tlsCAFile=/x", &["tls=false", "tlsCAFile"]),
            ("tlsInsecure=true&tlsAllowInvalidCertificates=true", &["exclude each other"]),
            ("tlsCAFiel=/x", &["tlsCAFiel"]),
            ("directConnection=true&loadBalanced=true", &["exclude each other"]),
            ("loadBalanced=true&replicaSet=x", &["replicaSet", "loadBalanced"]),
            ("srvServiceName=x", &["srvServiceName", "mongodb+srv"]),
            ("srvMaxHosts=2", &["srvMaxHosts", "mongodb+srv"]),
        ] {
            says(options, PLAIN, parts);
        }
        says("directConnection=true", Around { hosts: 2, ..PLAIN }, &["several hosts"]);
        says("directConnection=true", Around { srv: true, ..PLAIN }, &["mongodb+srv://"]);
        says("srvMaxHosts=2&replicaSet=x", Around { srv: true, ..PLAIN }, &["srvMaxHosts"]);
        says(
            "tlsAllowInvalidHostnames=true",
            Around { srv: true, ..PLAIN },
            &["tlsAllowInvalidHostnames"],
        );
        let nobody = Around { user: false, password: false, at_before: false, ..PLAIN };
        says("authMechanism=PLAIN", nobody, &["needs a user name"]);
        let in_kubernetes = "authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:k8s";
        assert!(read(in_kubernetes, nobody).unwrap().external);
    }

    #[test]
    fn a_check_that_is_not_made_may_be_switched_off() {
        for options in [
            "tls=true&tlsDisableOCSPEndpointCheck=true",
            "tls=true&tlsInsecure=true&tlsAllowInvalidHostnames=true",
            "tlsAllowInvalidCertificates=true&tlsAllowInvalidHostnames=true",
            "tls=false&tlsAllowInvalidHostnames=true",
            "tls=false&tlsInsecure=true",
        ] {
            assert_eq!(ok(options).ignored.len(), 1, "{options}");
        }
    }
}
