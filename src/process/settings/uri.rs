//! The connection string: kept secret, read as far as the gate needs to, and made such that the driver takes
//! it.

use derive_more::{Debug, Display};
use mongodb::options::ServerAddress;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

use super::file;
use super::uri_options::{self, Around, is_percent_encoded};
use super::value::{is_secretive, wrong};
use crate::process::exit::Outcome;
use crate::process::failure::Failure;

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Debug, Display)]
#[debug("<hidden>")]
#[display("<hidden>")]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A connection string that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    /// As the driver takes it.
    pub(super) uri: Secret,
    pub(super) database: String,
    pub(super) origin: Origin,
}

/// Where a connection string comes from, and what messages about a connection need to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// As in `GATE_MONGODB_URI (key uri of Secret lab)`.
    pub(crate) source: String,
    /// What of it is ignored, in sentences.
    pub(crate) ignored: Vec<String>,
    /// The name that it has the DNS asked for, where it is a `mongodb+srv` one.
    pub(crate) srv: Option<String>,
    /// Whether its password holds a plus, which some drivers read as a space.
    pub(crate) plus_in_password: bool,
    /// Where the server looks its user up; `None` if it names no user of a database.
    pub(crate) users_of: Option<String>,
    /// Whether it says so with the option authSource.
    pub(crate) says_auth_source: bool,
}

/// A part of a connection string.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
enum Part {
    #[display("user name")]
    User,
    #[display("password")]
    Password,
    #[display("path")]
    Path,
}

/// Why a text is not a connection string. Holds nothing of the text but names of options.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum UriError {
    #[error("does not begin with mongodb:// or mongodb+srv://")]
    Scheme,
    #[error("stands in quotation marks")]
    Quoted,
    #[error("is encoded in base64")]
    Base64,
    #[error("begins with a byte-order mark")]
    Mark,
    #[error("has a line break or another control character in it")]
    Control,
    #[error("has a bare ?, / or @ in its user name or password")]
    Unescaped,
    #[error("has a bare : in its password")]
    Colon,
    #[error("has a % in its {0} that two hexadecimal digits do not follow")]
    Percent(Part),
    #[error("has a {0} that is not UTF-8 once it is decoded")]
    Encoding(Part),
    #[error("has an @ without a user name before it")]
    NoUser,
    #[error("names no host, or one that is empty")]
    NoHost,
    #[error("has an address in [ ] that is not IPv6")]
    Address,
    #[error(
        "has a port that is not a number from 1 to 65535, or a password without @host after it"
    )]
    Port,
    #[error("begins with mongodb+srv:// and names more than one host, or a port")]
    SrvHost,
    #[error("has in its path a database name that {0}")]
    Database(NameError),
    #[error("{0}")]
    Option(String, String),
}

/// Why a text cannot name a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum NameError {
    #[error("contains {0:?}")]
    Character(char),
    #[error("is not 1 to 63 bytes long")]
    Length,
    #[error("is not percent-encoded UTF-8")]
    Encoding,
}

impl UriError {
    fn next(&self) -> String {
        let write = match self {
            UriError::Quoted => "write it without quotation marks: mongodb://…",
            UriError::Base64 => {
                "write it as it is: under `data` of a Secret it is encoded once, under `stringData` not \
                 at all"
            }
            UriError::Mark => "save it as UTF-8 without a byte-order mark",
            UriError::Control => "write it in one line, with special characters percent-encoded",
            UriError::Colon => {
                "write : in a password as %3A: special characters are percent-encoded"
            }
            UriError::Percent(_) => {
                "write a % itself as %25: special characters are percent-encoded"
            }
            UriError::SrvHost => {
                "write mongodb+srv://user:password@name/database with the name in the DNS that has the \
                 hosts, or mongodb:// with all hosts"
            }
            UriError::Option(_, next) => next,
            _ => {
                "write mongodb://user:password@host:27017/database, with special characters \
                 percent-encoded"
            }
        };
        write.to_owned()
    }
}

/// The connection string, given as text (that `origin` tells the origin of) or in a file, and the
/// database that it or `name` names.
///
/// # Errors
///
/// [`Outcome::NoServer`] where whoever is to provide it has not done so yet, else
/// [`Outcome::SettingWrong`].
pub(super) fn connection(
    uri: &Option<String>,
    origin: &Option<String>,
    file: &Option<String>,
    name: &Option<String>,
) -> Result<Connection, Failure> {
    if origin.as_deref().is_some_and(is_secretive) {
        return Err(wrong(
            "GATE_MONGODB_URI_SOURCE looks like a connection string, where words are needed",
            "set GATE_MONGODB_URI instead",
        ));
    }
    let from = |setting: String| match origin {
        Some(origin) => format!("{setting} ({origin})"),
        None => setting,
    };
    let given = uri.as_ref().filter(|uri| !uri.trim().is_empty());
    let (source, uri) = match (given, file) {
        (Some(uri), None) => (from("GATE_MONGODB_URI".into()), uri.clone()),
        (None, Some(path)) => {
            let text = file::read(path, origin.as_deref())?;
            (from("GATE_MONGODB_URI_FILE".into()), text)
        }
        (None, None) if let Some(origin) = origin => {
            return Err(Failure::new(
                Outcome::NoServer,
                format!("GATE_MONGODB_URI is not set: the {origin} is missing or empty"),
                format!(
                    "write mongodb://user:password@host:27017/database to the {origin}, then run it again"
                ),
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
    let parsed = parse(uri.trim()).map_err(|error| {
        wrong(format!("the connection string of {source} {error}"), error.next())
    })?;
    let Some(database) = name.clone().or(parsed.path.clone()) else {
        return Err(wrong(
            format!("no database is named, neither by GATE_DATABASE nor in the path of {source}"),
            "set GATE_DATABASE, or write the connection string as mongodb://host:27017/database",
        ));
    };
    check_name(&database).map_err(|error| {
        wrong(format!("GATE_DATABASE {error}"), "set GATE_DATABASE to a MongoDB database's name")
    })?;
    if is_the_servers(&database) {
        return Err(match name {
            Some(_) => wrong(
                format!("GATE_DATABASE is {database}, which is MongoDB's own database"),
                "set GATE_DATABASE to the application's database",
            ),
            None => wrong(
                format!(
                    "the connection string of {source} has {database} in its path, which is MongoDB's \
                     own database and there usually means authSource"
                ),
                format!(
                    "set GATE_DATABASE to the application's database, or write it into the path and add \
                     the option authSource={database}"
                ),
            ),
        });
    }
    let ignored =
        parsed.ignored.iter().map(|said| format!("in the connection string of {source}, {said}"));
    let origin = Origin { ignored: ignored.collect(), source, ..parsed.origin };
    Ok(Connection { uri: parsed.uri, database, origin })
}

/// What a connection string holds.
#[derive(Debug)]
struct Parsed {
    uri: Secret,
    path: Option<String>,
    ignored: Vec<String>,
    origin: Origin,
}

/// What may stand in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// Reads a connection string.
fn parse(uri: &str) -> Result<Parsed, UriError> {
    let schemes = [("mongodb://", false), ("mongodb+srv://", true)];
    let (scheme, srv, rest) = schemes
        .into_iter()
        .find_map(|(scheme, srv)| Some((scheme, srv, uri.strip_prefix(scheme)?)))
        .ok_or_else(|| without_scheme(uri))?;
    if uri.chars().any(char::is_control) {
        return Err(UriError::Control);
    }
    let (address, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (user_info, hosts) = match address.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, address),
    };
    if user_info.is_some_and(|user_info| user_info.contains(['/', '@'])) {
        return Err(UriError::Unescaped);
    }
    let (hosts, path) = hosts.split_once('/').unwrap_or((hosts, ""));
    let read = |user_info: &str, hosts: &str| {
        let user = user_info_of(user_info)?;
        check_hosts(hosts, srv)?;
        Ok(user)
    };
    let user = read(user_info.unwrap_or_default(), hosts).map_err(|error| {
        // what follows the ? is then a part of the password, and of more than that
        if user_info.is_none() && options.contains('@') { UriError::Unescaped } else { error }
    })?;
    if user_info.is_some() && user.as_ref().is_none_or(|(name, _)| name.is_empty()) {
        return Err(UriError::NoUser);
    }
    let around = Around {
        srv,
        hosts: hosts.split(',').count(),
        user: user.is_some(),
        password: user.as_ref().is_some_and(|(_, password)| password.is_some()),
        at_before: user_info.is_some(),
    };
    let options = uri_options::read(options, around).map_err(|wrong| match wrong {
        uri_options::Wrong::Option(said, next) => UriError::Option(said, next),
        uri_options::Wrong::Unescaped => UriError::Unescaped,
    })?;
    let path = match path {
        "" => None,
        path if !is_percent_encoded(path) => return Err(UriError::Percent(Part::Path)),
        path => {
            let name = percent_decode_str(path).decode_utf8();
            let name = name.map_err(|_| UriError::Database(NameError::Encoding))?.into_owned();
            check_name(&name).map_err(UriError::Database)?;
            Some(name)
        }
    };

    let mut made = scheme.to_owned();
    if let Some((name, password)) = &user {
        made += &utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
        if let Some(password) = password {
            made += &format!(":{}", utf8_percent_encode(password, NON_ALPHANUMERIC));
        }
        made += "@";
    }
    made += &format!("{hosts}/");
    if let Some(path) = &path {
        made += &utf8_percent_encode(path, PATH).to_string();
    }
    if !options.driver.is_empty() {
        made += &format!("?{}", options.driver);
    }
    let users_of = match (&user, options.external) {
        (Some(_), false) => options.auth_source.clone().or(path.clone()).or(Some("admin".into())),
        _ => None,
    };
    let plus = user.as_ref().and_then(|(_, password)| password.as_ref());
    let origin = Origin {
        srv: srv.then(|| hosts.to_owned()),
        plus_in_password: plus.is_some_and(|password| password.contains('+')),
        users_of,
        says_auth_source: options.auth_source.is_some(),
        ..Origin::default()
    };
    Ok(Parsed { uri: Secret(made), path, ignored: options.ignored, origin })
}

/// How `mongodb:/` and `mongodb+srv:` begin in base64.
const ENCODED: [&str; 2] = ["bW9uZ29kYjov", "bW9uZ29kYitzcnY6"];

/// What is the matter with a text that begins with no scheme.
fn without_scheme(uri: &str) -> UriError {
    let bare = uri.trim_start_matches(['"', '\'', '`', '“', '‘']);
    if uri.starts_with('\u{feff}') {
        UriError::Mark
    } else if bare.len() < uri.len() && bare.starts_with("mongodb") {
        UriError::Quoted
    } else if ENCODED.iter().any(|start| uri.starts_with(start)) {
        UriError::Base64
    } else {
        UriError::Scheme
    }
}

/// User name and password, decoded. A plus is a plus.
fn user_info_of(text: &str) -> Result<Option<(String, Option<String>)>, UriError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (name, password) = match text.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (text, None),
    };
    if password.is_some_and(|password| password.contains(':')) {
        return Err(UriError::Colon);
    }
    let decoded = |text: &str, part| {
        if !is_percent_encoded(text) {
            return Err(UriError::Percent(part));
        }
        let text = percent_decode_str(text).decode_utf8().map_err(|_| UriError::Encoding(part))?;
        Ok(text.into_owned())
    };
    let password = password.map(|password| decoded(password, Part::Password)).transpose()?;
    Ok(Some((decoded(name, Part::User)?, password)))
}

/// Whether the driver can read every host.
fn check_hosts(hosts: &str, srv: bool) -> Result<(), UriError> {
    for host in hosts.split(',') {
        match ServerAddress::parse(host) {
            Ok(ServerAddress::Tcp { port: Some(_), .. }) if srv => return Err(UriError::SrvHost),
            Ok(_) => {}
            Err(_) if host.is_empty() || host.starts_with(':') => return Err(UriError::NoHost),
            Err(_) if host.starts_with('[') => return Err(UriError::Address),
            Err(_) => return Err(UriError::Port),
        }
    }
    if srv && hosts.contains(',') { Err(UriError::SrvHost) } else { Ok(()) }
}

/// Whether a database is MongoDB's own; names that differ in case only cannot be there together.
fn is_the_servers(name: &str) -> bool {
    ["admin", "local", "config"].iter().any(|own| own.eq_ignore_ascii_case(name))
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

    fn database(uri: &str) -> Result<Option<String>, UriError> {
        parse(uri).map(|parsed| parsed.path)
    }

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
    fn refuses_what_no_driver_could_read_and_says_why() {
        let name = UriError::Database;
        for (uri, expected) in [
            ("", UriError::Scheme),
            ("host/datalab", UriError::Scheme),
            ("http://host/datalab", UriError::Scheme),
            ("\"mongodb://host/datalab\"", UriError::Quoted),
            ("'mongodb://host/datalab'", UriError::Quoted),
            ("bW9uZ29kYjovL2hvc3QvbGFi", UriError::Base64),
            ("\u{feff}mongodb://host/datalab", UriError::Mark),
            ("mongodb://host/datalab\nmongodb://b/datalab", UriError::Control),
            ("mongodb://user:s3/cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3@cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3?cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3?a=1&cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:12?a=1&b=cret@host/datalab", UriError::Unescaped),
            ("mongodb://user:s3:cret@host/datalab", UriError::Colon),
            ("mongodb://user:s3%cret@host/datalab", UriError::Percent(Part::Password)),
            ("mongodb://us%er:s3cret@host/datalab", UriError::Percent(Part::User)),
            ("mongodb://user:s3%@host/datalab", UriError::Percent(Part::Password)),
            ("mongodb://user:s3%é@host/datalab", UriError::Percent(Part::Password)),
            ("mongodb://user:s3%FFcret@host/datalab", UriError::Encoding(Part::Password)),
            ("mongodb://:s3cret@host/datalab", UriError::NoUser),
            ("mongodb://@host/datalab", UriError::NoUser),
            ("mongodb://user:s3cret@/datalab", UriError::NoHost),
            ("mongodb://user:s3cret@:27017/datalab", UriError::NoHost),
            ("mongodb://a,,b/datalab", UriError::NoHost),
            ("mongodb://user:s3cret", UriError::Port),
            ("mongodb://host:0/datalab", UriError::Port),
            ("mongodb://host:99999/datalab", UriError::Port),
            ("mongodb://[::x]/datalab", UriError::Address),
            ("mongodb+srv://a,b/datalab", UriError::SrvHost),
            ("mongodb+srv://a:27017/datalab", UriError::SrvHost),
            ("mongodb://host/a%b", UriError::Percent(Part::Path)),
            ("mongodb://host/a.b", name(NameError::Character('.'))),
            ("mongodb://host/a%2Fb", name(NameError::Character('/'))),
            ("mongodb://host/%FF", name(NameError::Encoding)),
        ] {
            let error = parse(uri).expect_err(uri);
            assert_eq!(error, expected, "{uri}");
            let text = format!("{error}: {}", error.next());
            assert!(!text.contains("s3") && !text.contains("cret@"), "{text}");
        }
        assert_eq!(check_name(&"x".repeat(64)), Err(NameError::Length));
        assert_eq!(check_name(&"x".repeat(63)), Ok(()));
    }

    #[test]
    fn the_driver_reads_the_user_and_the_password_that_were_meant() {
        use mongodb::options::ConnectionString;
        for (written, password) in [
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("a%20b", "a b"),
            ("a#[b]", "a#[b]"),
            ("p%40ss%3Aw%2Frd%3F", "p@ss:w/rd?"),
            ("größe", "größe"),
            ("", ""),
        ] {
            let parsed = parse(&format!("mongodb://u%40x:{written}@host/lab")).unwrap();
            let read = ConnectionString::parse(parsed.uri.expose()).unwrap();
            let credential = read.credential.unwrap();
            assert_eq!(credential.username.as_deref(), Some("u@x"));
            assert_eq!(credential.password.as_deref(), Some(password), "{written}");
            assert_eq!(parsed.origin.plus_in_password, password.contains('+'));
        }
    }

    #[test]
    fn users_are_looked_up_where_the_string_says() {
        for (uri, expected) in [
            ("mongodb://u:p@host/lab", Some("lab")),
            ("mongodb://u:p@host/", Some("admin")),
            ("mongodb://u:p@host/lab?authSource=admin", Some("admin")),
            ("mongodb://u:p@host/lab?authSource=$external", None),
            ("mongodb://host/lab", None),
        ] {
            assert_eq!(parse(uri).unwrap().origin.users_of.as_deref(), expected, "{uri}");
        }
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
