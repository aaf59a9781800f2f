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

/// What a text for the report asks for in braces and is none of these numbers; it would be printed as it stands.
pub(crate) fn unknown_number<'t>(text: &'t str, numbers: &[&str]) -> Option<&'t str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let braces = text.match_indices('{').filter_map(|(at, _)| text[at + 1..].split_once('}'));
    let mut names = braces.map(|(name, _)| name).filter(|name| name.bytes().all(is_name));
    names.find(|name| !numbers.contains(name))
}

/// What is said of a text for the report that asks for such a number.
pub(crate) fn no_number(text: &str, number: &str) -> String {
    format!("its report \"{text}\" has no number called {{{number}}}: it has {{n}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_report_asks_for_in_braces_is_a_number_of_the_step() {
        for right in ["", "Give {n} card(s) a position", "a { brace", "a set { a, b }", "}{"] {
            assert_eq!(unknown_number(right, &["n"]), None, "{right}");
        }
        for (wrong, number) in
            [("{m}", "m"), ("{n} of {count}", "count"), ("{}", ""), ("{{m}}", "m")]
        {
            assert_eq!(unknown_number(wrong, &["n"]), Some(number), "{wrong}");
        }
    }
}
