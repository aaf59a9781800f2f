//! The connection string: kept secret, and asked only for its database.

use std::fmt;
use std::fs;

use percent_encoding::percent_decode_str;

use super::value::wrong;
use crate::failure::Failure;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

/// Why a text is not a connection string. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UriError {
    Scheme,
    Unescaped,
    Database(NameError),
}

/// Why a text cannot name a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameError {
    Character(char),
    Length,
    Encoding,
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UriError::Scheme => f.write_str("does not begin with mongodb:// or mongodb+srv://"),
            UriError::Unescaped => f.write_str("has a bare ?, / or @ in its user name or password"),
            UriError::Database(error) => write!(f, "has in its path a database name that {error}"),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Character(character) => write!(f, "contains {character:?}"),
            NameError::Length => f.write_str("is not 1 to 63 bytes long"),
            NameError::Encoding => f.write_str("is not percent-encoded UTF-8"),
        }
    }
}

/// The connection string, given as text (that `origin` tells the origin of) or in a file, and the
/// database that it or `name` names.
pub(super) fn connection(
    uri: &Option<String>,
    origin: &Option<String>,
    file: &Option<String>,
    name: &Option<String>,
) -> Result<(Secret, String), Failure> {
    if origin.as_deref().is_some_and(|origin| origin.contains("://")) {
        return Err(wrong(
            "GATE_MONGODB_URI_SOURCE is a connection string, where words are needed",
            "set GATE_MONGODB_URI instead",
        ));
    }
    let (source, uri) = match (uri, file) {
        (Some(uri), None) => match origin {
            Some(origin) => (format!("GATE_MONGODB_URI ({origin})"), uri.clone()),
            None => ("GATE_MONGODB_URI".into(), uri.clone()),
        },
        (None, Some(path)) => ("GATE_MONGODB_URI_FILE".into(), read(path)?),
        (None, None) if let Some(origin) = origin => {
            return Err(wrong(
                format!("GATE_MONGODB_URI is not set: the {origin} is missing or empty"),
                format!("write mongodb://user:password@host:27017/database to the {origin}"),
            ));
        }
        (None, None) => {
            return Err(wrong(
                "neither GATE_MONGODB_URI nor GATE_MONGODB_URI_FILE is set",
                "set one of them, as in GATE_MONGODB_URI=mongodb://host:27017/database",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(wrong(
                "both GATE_MONGODB_URI and GATE_MONGODB_URI_FILE are set",
                "unset one of them",
            ));
        }
    };
    let uri = uri.trim();
    let in_path = database(uri).map_err(|error| {
        wrong(
            format!("the connection string of {source} {error}"),
            "write mongodb://user:password@host:27017/database, with special characters \
             percent-encoded",
        )
    })?;
    let Some(name) = name.clone().or(in_path) else {
        return Err(wrong(
            format!("no database is named, neither by GATE_DATABASE nor in the path of {source}"),
            "set GATE_DATABASE, or write the connection string as mongodb://host:27017/database",
        ));
    };
    check_name(&name).map_err(|error| {
        wrong(format!("GATE_DATABASE {error}"), "set GATE_DATABASE to a MongoDB database's name")
    })?;
    Ok((Secret(uri.into()), name))
}

fn read(path: &str) -> Result<String, Failure> {
    let name = "GATE_MONGODB_URI_FILE";
    if path.contains("://") {
        return Err(wrong(
            format!("{name} is a connection string, where a path is needed"),
            "set GATE_MONGODB_URI instead",
        ));
    }
    // what looks like an address with a password is not repeated
    let file = match path.contains('@') {
        true => format!("the file of {name}"),
        false => format!("the file {path:?} of {name}"),
    };
    let text = fs::read_to_string(path).map_err(|error| {
        wrong(
            format!("{file} cannot be read: {error}"),
            "mount the secret there, readable for this user",
        )
    })?;
    if text.trim().is_empty() {
        return Err(wrong(format!("{file} is empty"), "write the connection string to it"));
    }
    Ok(text)
}

/// The database in the path of a connection string, if it has one.
///
/// Splits as the driver does, which checks the rest when it connects.
fn database(uri: &str) -> Result<Option<String>, UriError> {
    let rest = ["mongodb://", "mongodb+srv://"]
        .iter()
        .find_map(|scheme| uri.strip_prefix(scheme))
        .ok_or(UriError::Scheme)?;
    let (address, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, hosts) = address.rsplit_once('@').unwrap_or(("", address));
    let option_name = options.split('=').next().unwrap_or_default();
    if user.contains(['/', '@']) || option_name.contains('@') {
        return Err(UriError::Unescaped);
    }
    let Some((_, path)) = hosts.split_once('/').filter(|(_, path)| !path.is_empty()) else {
        return Ok(None);
    };
    let name =
        percent_decode_str(path).decode_utf8().map_err(|_| UriError::Database(NameError::Encoding));
    let name = name?.into_owned();
    check_name(&name).map_err(UriError::Database)?;
    Ok(Some(name))
}

/// Refuses what the server refuses as a database's name.
fn check_name(name: &str) -> Result<(), NameError> {
    if let Some(character) = name.chars().find(|character| "/\\. \"$\0".contains(*character)) {
        return Err(NameError::Character(character));
    }
    if (1..=63).contains(&name.len()) { Ok(()) } else { Err(NameError::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_database_in_every_form_of_connection_string() {
        for (uri, expected) in [
            ("mongodb://host/datalab", Some("datalab")),
            ("mongodb://host:27017/datalab?replicaSet=rs0", Some("datalab")),
            ("mongodb://a:1,b:2,c:3/datalab?w=majority", Some("datalab")),
            ("mongodb+srv://user:pa%2Fss@cluster.example/datalab", Some("datalab")),
            ("mongodb://user:pass@host/data%C3%BC", Some("dataü")),
            ("mongodb://user@host/x?appName=@x@", Some("x")),
            ("mongodb://%2Ftmp%2Fmongodb-27017.sock/datalab", Some("datalab")),
            ("mongodb://[::1]:27017/datalab", Some("datalab")),
            ("mongodb://host", None),
            ("mongodb://host/", None),
            ("mongodb://host/?replicaSet=rs0", None),
            ("mongodb://host?directConnection=true", None),
        ] {
            assert_eq!(database(uri), Ok(expected.map(String::from)), "{uri}");
        }
    }

    #[test]
    fn refuses_what_no_driver_could_read() {
        let name = UriError::Database;
        for (uri, expected) in [
            ("", UriError::Scheme),
            ("host/datalab", UriError::Scheme),
            ("http://host/datalab", UriError::Scheme),
            ("mongodb://user:s3/cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3@cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3?cret@host/datalab", UriError::Unescaped),
            ("mongodb://host/a.b", name(NameError::Character('.'))),
            ("mongodb://host/a%2Fb", name(NameError::Character('/'))),
            ("mongodb://host/%FF", name(NameError::Encoding)),
        ] {
            assert_eq!(database(uri), Err(expected), "{uri}");
        }
        assert_eq!(check_name(&"x".repeat(64)), Err(NameError::Length));
        assert_eq!(check_name(&"x".repeat(63)), Ok(()));
    }

    #[test]
    fn a_secret_is_shown_to_nobody_who_does_not_ask() {
        let secret = Secret("s3cret".into());
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret)).matches("s3cret").count(),
            0
        );
        assert_eq!(secret.expose(), "s3cret");
    }
}
