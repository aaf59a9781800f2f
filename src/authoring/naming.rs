//! The names that an author gives.

use std::borrow::Cow;

/// A name or a text that the author gives: a literal, or one that is known only at run time.
pub(crate) type Name = Cow<'static, str>;

/// Why no collection of an application can have this name.
pub(crate) fn collection_mistake(name: &str) -> Option<String> {
    let why = match name {
        "" => return Some("a collection needs a name".to_owned()),
        _ if name.contains('$') => "it holds `$`",
        _ if name.contains('\0') => "it holds a zero byte",
        _ if name.starts_with('.') => "it begins with a dot",
        _ if name.starts_with("system.") => {
            return Some(format!("\"{name}\" is one of the server's own collections"));
        }
        _ => return None,
    };
    Some(format!("no collection can be called {name:?}: {why}"))
}
