//! Why a server cannot be reached, and what to do about it: connection string, DNS, TLS, topology.

use mongodb::error::{Error, ErrorKind};

use crate::exit::Outcome;
use crate::failure::Failure;
use crate::server::describe;

/// The closed gate that a connection string means which the driver cannot use.
pub(crate) fn wrong_uri(error: &Error) -> Failure {
    match *error.kind {
        ErrorKind::DnsResolve { .. } => Failure::new(
            Outcome::NoServer,
            format!("cannot resolve the host of the connection string: {}", describe(error)),
            "check the host in GATE_MONGODB_URI and the cluster's DNS",
        ),
        ErrorKind::InvalidTlsConfig { .. } | ErrorKind::Io(_) => Failure::new(
            Outcome::SettingWrong,
            format!("GATE_MONGODB_URI names files that cannot be used: {}", describe(error)),
            "check the options tlsCAFile and tlsCertificateKeyFile in the connection string",
        ),
        // the driver's reason may repeat a part that is secret
        _ => Failure::new(
            Outcome::SettingWrong,
            "GATE_MONGODB_URI is not a connection string that the driver can use",
            "write it as mongodb://user:password@host:port/database?options, with special characters \
             percent-encoded",
        ),
    }
}

/// What to do where no server can be used, by what the driver says of those that it asked.
pub(crate) fn selection_remedy(topology: &str) -> &'static str {
    if topology.contains("certificate") || topology.contains("Certificate") {
        "check the options tls and tlsCAFile in the connection string"
    } else if topology.contains("unexpected end of file") {
        "the server closes the connection: if it requires TLS, set the option tls=true; else see its log"
    } else if topology.contains("ReplicaSetNoPrimary")
        && topology.contains("Type: Unknown")
        && !topology.contains("Type: Rs")
    {
        "no member of the replica set answers: check hosts and ports in the connection string, the \
         network, and that the servers run"
    } else if topology.contains("ReplicaSetNoPrimary") {
        "the replica set has no primary, or not that name: check its members and the option replicaSet"
    } else if topology.contains("InvalidResponse") || topology.contains("invalid reply") {
        "what answers there is not a MongoDB: check host and port in the connection string"
    } else {
        "check host and port in the connection string, the network, and that the server runs"
    }
}
