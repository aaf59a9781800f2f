//! The file of the connection string: read with a bound on size and time, and every way in which it can be
//! wrong has its own sentence.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{is_secretive, wrong};
use crate::process::blocking;
use crate::process::exit::Outcome;
use crate::process::failure::Failure;

const NAME: &str = "GATE_MONGODB_URI_FILE";
/// More than any connection string has.
const MOST: u64 = 64 * 1024;
/// How long a file may take to be read.
const SOON: Duration = Duration::from_secs(2);

/// The text of the file at `path`, which `origin` provides.
///
/// # Errors
///
/// [`Outcome::NoServer`] if it is missing or empty, because something may still fill it, else
/// [`Outcome::SettingWrong`].
pub(super) fn read(path: &str, origin: Option<&str>) -> Result<String, Failure> {
    // what looks like an address with a password is not repeated
    if path.contains("://") {
        return Err(wrong(
            format!("{NAME} is a connection string, where a path is needed"),
            "set GATE_MONGODB_URI instead",
        ));
    }
    let mut file = match is_secretive(path) {
        true => format!("the file of {NAME}"),
        false => format!("the file {path:?} of {NAME}"),
    };
    if let Some(origin) = origin {
        file += &format!(" ({origin})");
    }
    let refused = |what: String, next: &str| Err(wrong(format!("{file} {what}"), next));
    let not_yet = |what: &str| {
        Err(Failure::new(
            Outcome::NoServer,
            format!("{file} is {what}"),
            "write mongodb://user:password@host:27017/database to it, then run it again",
        ))
    };
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(Unread::Error(error)) if error.kind() == ErrorKind::NotFound => {
            return match is_secretive(path) {
                true => Err(wrong(
                    format!("{NAME} looks like a connection string, where a path is needed"),
                    "set GATE_MONGODB_URI instead",
                )),
                false => not_yet("missing"),
            };
        }
        Err(Unread::Error(error)) if error.kind() == ErrorKind::IsADirectory => {
            return refused(
                "is a directory".to_owned(),
                "name the file in it, as in /secrets/mongodb/uri",
            );
        }
        Err(Unread::Error(error)) => {
            return refused(
                format!("cannot be read: {error}"),
                "mount the Secret there so that the user of this program can read it",
            );
        }
        Err(Unread::Pipe) => {
            return refused(
                "is a named pipe to which nobody writes".to_owned(),
                "name an ordinary file, or start what writes to the pipe first",
            );
        }
        Err(Unread::Slow) => {
            return refused(
                format!("could not be read within {} s", SOON.as_secs()),
                "find out why its file system does not answer, or name another file",
            );
        }
    };
    if bytes.len() as u64 > MOST {
        return refused(
            format!("is larger than {} KiB, which no connection string is", MOST / 1024),
            "name the file that holds the connection string and nothing else",
        );
    }
    const UTF_8: &str = "save it as UTF-8, without a byte-order mark";
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return refused("is UTF-16".to_owned(), UTF_8);
    }
    if bytes.starts_with(&[0xEF, 0xBB, 0xBF]) {
        return refused("begins with a byte-order mark".to_owned(), UTF_8);
    }
    if bytes.contains(&0) {
        return refused("holds NUL bytes, as UTF-16 and binary files do".to_owned(), UTF_8);
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return refused("is not UTF-8".to_owned(), UTF_8);
    };
    match text.trim() {
        "" => not_yet("empty"),
        text if text.contains(['\n', '\r']) => refused(
            "holds several lines".to_owned(),
            "keep only the connection string in it, on one line",
        ),
        text => Ok(text.to_owned()),
    }
}

/// Why no bytes were read.
enum Unread {
    Error(io::Error),
    Pipe,
    Slow,
}

fn bytes(path: &str) -> Result<Vec<u8>, Unread> {
    let path = PathBuf::from(path);
    let pipe = path.clone();
    let read = blocking::within(SOON, move || {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read {
        Some(read) => read.map_err(Unread::Error),
        None if pipe.metadata().is_ok_and(|it| it.file_type().is_fifo()) => Err(Unread::Pipe),
        None => Err(Unread::Slow),
    }
}
