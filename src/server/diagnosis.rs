//! Why a server cannot be reached, and what to do about it: connection string, DNS, TLS, topology.

use std::path::Path;

use mongodb::error::{Error, ErrorKind};

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::Origin;
use crate::server::answer::describe;

/// The failure if the driver cannot use the connection string. A `mongodb+srv` string was valid before DNS added to it.
pub(crate) fn wrong_uri(error: &Error, scheme: Scheme) -> Failure {
    match error.kind.as_ref() {
        ErrorKind::DnsResolve { message, .. } => unresolved(message),
        ErrorKind::InvalidArgument { message, .. }
            if scheme == Scheme::Srv && contradicts(message) =>
        {
            Failure::new(
                Outcome::NoServer,
                format!("what the DNS says of {SRV_NAME} does not fit together: {message}"),
                "correct its TXT and SRV records, or the options replicaSet, loadBalanced and srvMaxHosts in the \
             connection string",
            )
        }
        ErrorKind::InvalidTlsConfig { .. } | ErrorKind::Io(_) => Failure::new(
            Outcome::SettingWrong,
            format!("the connection string names files that cannot be used: {}", describe(error)),
            "check the options tlsCAFile and tlsCertificateKeyFile in GATE_MONGODB_URI; for a certificate that a public \
             authority signed leave tlsCAFile out",
        ),
        // the driver's reason may repeat a part that is secret
        _ => Failure::new(
            Outcome::SettingWrong,
            "the connection string is not one that the driver can use",
            "write it as mongodb://user:password@host:port/database?options, with special characters \
             percent-encoded",
        ),
    }
}

/// The closed gate that a connection string means which names a pipe or a folder where a file is needed.
pub(crate) fn no_file(path: &Path) -> Failure {
    Failure::new(
        Outcome::SettingWrong,
        format!("the connection string names {path:?}, which is not an ordinary file"),
        "name a file in PEM format with the options tlsCAFile and tlsCertificateKeyFile",
    )
}

/// Whether the driver's reason is that options exclude each other, some of which the DNS gave: those that the
/// string itself has were read before. It repeats no part of the string.
fn contradicts(reason: &str) -> bool {
    ["loadBalanced", "srvMaxHosts", "multiple seeds"].iter().any(|part| reason.contains(part))
}

/// How a connection string names its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `mongodb://`: as they are.
    Hosts,
    /// `mongodb+srv://`: by a name of which the DNS knows them.
    Srv,
}

impl Scheme {
    pub(crate) fn of(uri: &str) -> Scheme {
        if uri.starts_with("mongodb+srv://") { Scheme::Srv } else { Scheme::Hosts }
    }
}

/// What the DNS said of the name of a `mongodb+srv` connection string.
fn unresolved(said: &str) -> Failure {
    const NO_NAME: [&str; 3] = ["Malformed label", "label bytes exceed", "name label data exceed"];
    if NO_NAME.iter().any(|sign| said.contains(sign)) {
        return Failure::new(
            Outcome::SettingWrong,
            format!("{SRV_NAME} is not one that the DNS can have"),
            "correct the name in the connection string: parts of 1 to 63 characters, separated by dots",
        );
    }
    let closed = |what: String, next: &str| Failure::new(Outcome::NoServer, what, next);
    if said.contains("no records found") || said.contains("returned no records") {
        closed(
            format!("the DNS has no SRV records of {SRV_NAME}"),
            "check the name in the connection string (the records are those of _mongodb._tcp.NAME), and \
             that the cluster's DNS knows them; to name hosts write mongodb://",
        )
    } else if said.contains("does not match domain name") {
        closed(
            format!(
                "the DNS answers for {SRV_NAME} with hosts of another domain, which is refused: {said}"
            ),
            "name hosts of the same domain in its SRV records, or write mongodb:// with all members into \
             the connection string",
        )
    } else if said.contains("TXT") {
        closed(
            format!("the TXT record of {SRV_NAME} cannot be used: {said}"),
            "keep one TXT record there, with authSource, replicaSet and loadBalanced only, or write \
             mongodb:// with all members into the connection string",
        )
    } else if let Some((_, code)) = said.split_once("error response: ") {
        closed(
            format!("a name server answers the look-up of {SRV_NAME} with an error: {code}"),
            "check the name server that /etc/resolv.conf names (in Kubernetes the cluster's DNS), or write \
             mongodb:// with all members into the connection string",
        )
    } else if said.contains("no nameservers") || said.contains("No such file") {
        closed(
            format!("no name server is configured that could look up {SRV_NAME}"),
            "name one in /etc/resolv.conf (in Kubernetes the pod's dnsPolicy decides), or write mongodb:// \
             with all members into the connection string",
        )
    } else if said.contains("timed out") || said.contains("no connections available") {
        no_name_server()
    } else {
        closed(
            format!("{SRV_NAME} could not be looked up: {said}"),
            "check the name in the connection string, and the name servers in /etc/resolv.conf",
        )
    }
}

/// The closed gate of a run that asked name servers in vain.
pub(crate) fn no_name_server() -> Failure {
    Failure::new(
        Outcome::NoServer,
        format!("no name server answers the look-up of {SRV_NAME}"),
        "check that the name servers in /etc/resolv.conf run and can be reached from here (port 53; in \
         Kubernetes the cluster's DNS and the network policies), or write mongodb:// with all members into \
         the connection string",
    )
}

/// What [`explained`] adds the name to.
const SRV_NAME: &str = "the mongodb+srv name";

/// The closed gate of a run that found no server to use, by what the driver says of those that it asked.
pub(crate) fn unreachable(doing: &str, topology: &str) -> Failure {
    let (cause, next) = cause(topology);
    let mut message = format!("{doing}: {cause}");
    let addresses = addresses(topology);
    if !addresses.is_empty() {
        message += &format!(" ({})", addresses.join(", "));
    }
    tracing::debug!(topology, "no server can be used");
    Failure::new(Outcome::NoServer, message, next)
}

/// The servers that the driver knew at last.
fn addresses(topology: &str) -> Vec<&str> {
    let rest = topology.split("Address: ").skip(1);
    rest.filter_map(|rest| rest.split(',').next()).take(7).collect()
}

/// What is the matter, and what to do; the most telling sign comes first.
fn cause(topology: &str) -> (&'static str, &'static str) {
    let says = |sign: &str| topology.contains(sign);
    let has_members =
        ["RsPrimary", "RsSecondary", "RsArbiter", "RsOther"].iter().any(|kind| says(kind));
    if has_members {
        return (
            "the replica set has no primary",
            "check its members, of which a majority must run, and the option replicaSet in the connection string",
        );
    }
    if says("RsGhost") {
        return (
            "the server was started as a member of a replica set that was never initiated, or that does \
             not have it as a member yet",
            "run rs.initiate() once on the server that the connection string names, or add it to its set; \
             then run it again",
        );
    }
    if says("UnknownIssuer") {
        return (
            "the server's certificate was issued by an authority that is not trusted",
            "name the file of its authority with the option tlsCAFile (and tls=true) in the connection \
             string; without it, only public authorities are trusted",
        );
    }
    if says("not valid for name") || says("NotValidForName") {
        return (
            "the server's certificate is valid for other names than the one in the connection string, \
             though TLS works",
            "write a host that the certificate holds into the connection string, or issue a certificate \
             for this host (tlsAllowInvalidCertificates=true switches all checks off)",
        );
    }
    if says("certificate expired") || says("Expired") {
        return (
            "the server's certificate has expired, though TLS works",
            "renew the certificate of the server that the connection string names, and check the clocks (tls)",
        );
    }
    if says("not valid yet") || says("NotValidYet") {
        return (
            "the server's certificate is not valid yet, though TLS works",
            "check the clocks of this host and of the server that the connection string names (tls)",
        );
    }
    if says("invalid peer certificate") || says("certificate") && says("invalid") {
        return (
            "the server's certificate is refused",
            "check the server's certificate and the options tls and tlsCAFile in the connection string",
        );
    }
    if says("CertificateRequired") || says("without sending TLS close_notify") {
        return (
            "the server ends the connection once TLS is set up, as a server that asks its clients for a \
             certificate",
            "name a file with a certificate that the server trusts, and its key, with the option \
             tlsCertificateKeyFile in the connection string; the server's log says why it closed the \
             connection",
        );
    }
    if says("fatal alert") {
        return (
            "the server refuses TLS with this client: it does not accept its certificate or its version",
            "check that the server allows TLS 1.2 or 1.3, and the option tlsCertificateKeyFile in the \
             connection string; the server's log says why it refused",
        );
    }
    if says("tls handshake eof") || says("corrupt message") || says("InvalidContentType") {
        return (
            "the server does not speak TLS, which the connection string asks for",
            "remove tls=true and the other TLS options from the connection string (with mongodb+srv:// \
             add tls=false), or have the server use TLS",
        );
    }
    if says("unexpected end of file") || says("Connection reset") {
        return (
            "the server closes the connection, as a server that requires TLS does",
            "if the server requires TLS, set the option tls=true in the connection string; else see its \
             log",
        );
    }
    if says("InvalidResponse") || says("invalid reply") || says("invalid response") {
        return (
            "what answers there is not a MongoDB",
            "check host and port in the connection string: what answers is not a MongoDB",
        );
    }
    if says("failed to lookup address") || says("No DNS results") {
        return (
            "the host's name does not resolve",
            "check host and port in the connection string, and that the cluster's DNS knows the name",
        );
    }
    if says("ReplicaSetNoPrimary") && !says("Address: ") {
        return (
            "no server that was asked is a member of the set that the connection string names",
            "correct the option replicaSet in the connection string (rs.conf()._id is the set's name), or \
             remove it where the server is a standalone",
        );
    }
    if says("ReplicaSetNoPrimary") {
        return (
            "no member of the replica set answers",
            "check hosts and ports in the connection string, the network, and that the servers run",
        );
    }
    if says("Connection refused") {
        return (
            "nothing listens there",
            "check host and port in the connection string, the network, and that the server runs",
        );
    }
    (
        "no server answers",
        "check host and port in the connection string, the network, and that the server runs",
    )
}

/// Adds to a failure where the connection string comes from and, for a refused user, what in it may be the cause.
pub(crate) fn explained(mut failure: Failure, origin: &Origin) -> Failure {
    let about = [Outcome::NoServer, Outcome::NotAuthorised, Outcome::SettingWrong];
    if !about.contains(&failure.outcome) || origin.source.is_empty() {
        return failure;
    }
    let is_login =
        failure.outcome == Outcome::NotAuthorised && failure.next.contains("check user, password");
    if is_login {
        if let Some(database) = &origin.users_of {
            failure.next += &match (origin.says_auth_source, &origin.srv) {
                (true, _) => format!("; authSource={database} says where the user was made"),
                (false, None) => format!(
                    "; without authSource the user is looked up in {database}: one that was made in admin \
                     needs authSource=admin"
                ),
                (false, Some(name)) => format!(
                    "; without authSource the user is looked up where a TXT record of {name} says, or else \
                     in {database}: one that was made in admin needs authSource=admin"
                ),
            };
        }
        if origin.plus_in_password {
            failure.next += "; the password holds a +, which is a literal plus: where a space is meant, \
                             write %20";
        }
    }
    if let Some(name) = &origin.srv {
        failure.message = failure.message.replacen(SRV_NAME, &format!("{SRV_NAME} {name}"), 1);
        if failure.next.contains("the option replicaSet in") {
            failure.next += &format!("; where it has none, a TXT record of {name} names the set");
        }
    }
    if !failure.message.contains(&origin.source) && !failure.next.contains(&origin.source) {
        let text = if failure.next.contains(STRING) || failure.next.contains(SETTING) {
            &mut failure.next
        } else {
            &mut failure.message
        };
        *text = if text.contains(STRING) {
            text.replacen(STRING, &format!("{STRING} of {}", origin.source), 1)
        } else {
            text.replacen(SETTING, &origin.source, 1)
        };
    }
    failure
}

const STRING: &str = "the connection string";
const SETTING: &str = "GATE_MONGODB_URI";

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            source: "GATE_MONGODB_URI (key uri of Secret lab)".to_owned(),
            ..Origin::default()
        }
    }

    #[test]
    fn an_unreachable_server_is_explained_by_its_most_telling_sign() {
        let server = |kind: &str, error: &str| {
            format!(
                "Topology: {{ Type: Unknown, Servers: [ {{ Address: a:1, Type: {kind}, {error} }} ] }}"
            )
        };
        for (topology, said) in [
            (server("RsGhost", ""), "never initiated"),
            (server("Unknown", "Error: invalid peer certificate: UnknownIssuer"), "not trusted"),
            (
                server(
                    "Unknown",
                    "Error: invalid peer certificate: certificate not valid for name \"x\"",
                ),
                "other names",
            ),
            (
                server("Unknown", "Error: invalid peer certificate: certificate expired: …"),
                "expired",
            ),
            (server("Unknown", "Error: invalid peer certificate: BadSignature"), "refused"),
            (
                server("Unknown", "Error: peer closed connection without sending TLS close_notify"),
                "asks its clients",
            ),
            (
                server("Unknown", "Error: received fatal alert: CertificateRequired"),
                "asks its clients",
            ),
            (server("Unknown", "Error: tls handshake eof"), "does not speak TLS"),
            (server("Unknown", "Error: unexpected end of file"), "requires TLS"),
            (server("Unknown", "Error: failed to lookup address information"), "does not resolve"),
            (server("Unknown", "Error: Connection refused (os error 111)"), "nothing listens"),
            (
                "Topology: { Type: ReplicaSetNoPrimary, Set Name: rs0 }".to_owned(),
                "member of the set",
            ),
            (server("RsSecondary", "").replace("Unknown", "ReplicaSetNoPrimary"), "no primary"),
            ("nothing known".to_owned(), "no server answers"),
        ] {
            let failure = unreachable("reading the record", &topology);
            assert_eq!(failure.outcome, Outcome::NoServer);
            assert!(failure.message.contains(said), "{topology}: {failure}");
            assert_eq!(
                failure.message.contains("(a:1)"),
                topology.contains("Address"),
                "{failure}"
            );
        }
    }

    #[test]
    fn what_the_dns_said_is_told_apart() {
        for (said, what) in [
            ("no records found for Query { name }", "no SRV records of"),
            (
                "SRV lookup for a returned result b, which does not match domain name c",
                "another domain",
            ),
            ("TXT record option 'x' was returned, but only …", "TXT record"),
            ("DNS error: error response: Server Failure", "with an error: Server Failure"),
            ("io error: no nameservers found in config", "no name server is configured"),
            ("request timed out", "no name server answers"),
            ("protocol error: x", "could not be looked up: protocol error: x"),
        ] {
            let failure = unresolved(said);
            assert_eq!(failure.outcome, Outcome::NoServer);
            assert!(failure.message.contains(what), "{failure}");
            assert!(failure.next.contains(STRING), "{failure}");
            let origin = Origin { srv: Some("db.example".to_owned()), ..origin() };
            let failure = explained(failure, &origin);
            assert!(failure.message.contains("name db.example"), "{failure}");
            assert!(failure.next.contains("key uri of Secret lab"), "{failure}");
        }
    }

    #[test]
    fn the_source_of_the_string_is_named_once() {
        let closed = |next: &str| Failure::new(Outcome::NoServer, "asking", next);
        let text = explained(closed("check the connection string"), &origin()).next;
        assert_eq!(text, "check the connection string of GATE_MONGODB_URI (key uri of Secret lab)");
        let text = explained(closed("check GATE_MONGODB_URI"), &origin()).next;
        assert_eq!(text, "check GATE_MONGODB_URI (key uri of Secret lab)");
        assert_eq!(explained(closed("wait"), &origin()), closed("wait"));
        let pending = Failure::new(Outcome::Pending, "x", "the connection string");
        assert_eq!(explained(pending.clone(), &origin()), pending);
    }

    #[test]
    fn a_refused_user_is_told_of_a_plus_and_of_where_users_are_looked_up() {
        let refused = Failure::new(
            Outcome::NotAuthorised,
            "reading",
            "check user, password and authSource in the connection string",
        );
        let origin =
            Origin { plus_in_password: true, users_of: Some("lab".to_owned()), ..origin() };
        let next = explained(refused.clone(), &origin).next;
        assert!(next.contains("literal plus") && next.contains("%20"), "{next}");
        assert!(next.contains("looked up in lab") && next.contains("authSource=admin"), "{next}");
        let origin = Origin { plus_in_password: false, says_auth_source: true, ..origin };
        let next = explained(refused, &origin).next;
        assert!(!next.contains("plus") && next.contains("authSource=lab"), "{next}");
    }
}
