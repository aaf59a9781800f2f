//! What a text without quotes is: YAML 1.2's core schema, without what other readers of YAML take for something else.

use crate::files::node::Value;

/// What a plain text stands for, or why it is refused and what to write in its place.
pub(crate) fn plain(text: &str) -> Result<Value, (String, String)> {
    let quoted = || format!("\"{text}\" where it is a string");
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Ok(Value::Double(f64::INFINITY));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Ok(Value::Double(f64::NEG_INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return Ok(Value::Double(f64::NAN)),
        _ => {}
    }
    if ["yes", "no", "on", "off"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        let what = format!(
            "{text} without quotes is true or false to some readers of YAML and a string to others"
        );
        return Err((what, format!("write true or false, or \"{text}\" where it is a string")));
    }
    if is_date(text) {
        let what = format!(
            "{text} without quotes is a date to some readers of YAML and a string to others"
        );
        let date = "write a date as { $date: \"2026-11-28T00:00:00Z\" }";
        return Err((what, format!("{date}, and \"{text}\" where it is a string")));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Value::Text(text.to_owned()));
    }
    let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &digits[whole..];
    if whole > 1 && digits.starts_with('0') && is_number(digits) {
        let what = format!("{text} begins with a 0, which makes it octal to some readers of YAML");
        return Err((what, format!("write it without the 0, or {}", quoted())));
    }
    if whole == digits.len() {
        return match text.strip_prefix('+').unwrap_or(text).parse() {
            Ok(number) => Ok(Value::Int(number)),
            Err(_) => Err((
                format!("{text} does not fit into 64 bits"),
                format!(
                    "write {{ $numberDecimal: \"{text}\" }}, or \"{text}\" where it is a string"
                ),
            )),
        };
    }
    if is_number(digits) {
        return match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Double(number)),
            _ => Err((
                format!("{text} is larger than a double can be"),
                format!(
                    "write {{ $numberDecimal: \"{text}\" }}, or \"{text}\" where it is a string"
                ),
            )),
        };
    }
    let radix = whole == 1 && digits.starts_with('0') && {
        let (kind, rest) = rest.split_at(rest.chars().next().map_or(0, char::len_utf8));
        !rest.is_empty()
            && match kind {
                "x" | "X" => rest.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "o" | "b" => rest.bytes().all(|byte| byte.is_ascii_digit()),
                _ => false,
            }
    };
    let separated = |separator: char| {
        rest.starts_with(separator)
            && digits.split(separator).all(|part| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            })
    };
    if radix || separated('_') || (separated(':') && whole <= 2) {
        let what = format!(
            "{text} without quotes is a number to some readers of YAML and a string to others"
        );
        return Err((what, format!("write a number in plain digits, or {}", quoted())));
    }
    Ok(Value::Text(text.to_owned()))
}

/// Digits with a point or an exponent, or both, or neither.
fn is_number(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.map(|text| text.strip_prefix(['-', '+']).unwrap_or(text));
    all_digits(whole)
        && all_digits(fraction)
        && (!whole.is_empty() || !fraction.is_empty())
        && exponent.is_none_or(|text| !text.is_empty() && all_digits(text))
}

/// What YAML 1.1 reads as a time: `2026-11-28`, alone or with a time of day.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(3, '-').collect();
    let [year, month, rest] = parts.as_slice() else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let day = rest.bytes().take_while(u8::is_ascii_digit).count();
    let after = &rest[day..];
    year.len() == 4
        && digits(year)
        && month.len() <= 2
        && digits(month)
        && (1..=2).contains(&day)
        && (after.is_empty() || after.starts_with(['T', 't', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_readers_take_alike_is_read() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (plain_text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("FALSE", Value::Bool(false)),
            ("0", Value::Int(0)),
            ("-12", Value::Int(-12)),
            ("+12", Value::Int(12)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("1.0", Value::Double(1.0)),
            ("-0.5", Value::Double(-0.5)),
            (".5", Value::Double(0.5)),
            ("5.", Value::Double(5.0)),
            ("1e3", Value::Double(1000.0)),
            ("1E-3", Value::Double(0.001)),
            (".inf", Value::Double(f64::INFINITY)),
            ("1.1.0", text("1.1.0")),
            ("$order", text("$order")),
            ("tRUE", text("tRUE")),
            ("y", text("y")),
            ("1a", text("1a")),
            ("0xfg", text("0xfg")),
            ("-", text("-")),
            (".", text(".")),
            ("e5", text("e5")),
            ("1_a", text("1_a")),
            ("10-2", text("10-2")),
            ("2026-11", text("2026-11")),
            ("2026-11-28-a", text("2026-11-28-a")),
            ("1.1.0-card", text("1.1.0-card")),
            ("09:30h", text("09:30h")),
        ] {
            assert_eq!(plain(plain_text), Ok(value), "{plain_text}");
        }
        assert!(matches!(plain(".nan"), Ok(Value::Double(number)) if number.is_nan()));
    }

    #[test]
    fn what_readers_differ_on_is_refused_and_says_what_to_write() {
        for (text, what) in [
            ("yes", "true or false"),
            ("No", "true or false"),
            ("ON", "true or false"),
            ("off", "true or false"),
            ("2026-11-28", "$date"),
            ("2026-11-28T10:00:00Z", "$date"),
            ("2026-1-2 10:00:00", "$date"),
            ("007", "without the 0"),
            ("-01", "without the 0"),
            ("00.5", "without the 0"),
            ("0x1F", "plain digits"),
            ("0o17", "plain digits"),
            ("0b11", "plain digits"),
            ("1_000", "plain digits"),
            ("12:30", "plain digits"),
            ("12:30:45", "plain digits"),
            ("9223372036854775808", "$numberDecimal"),
            ("-9223372036854775809", "$numberDecimal"),
            ("1e400", "$numberDecimal"),
        ] {
            let (_, instead) = plain(text).unwrap_err();
            assert!(instead.contains(what), "{text}: {instead}");
            assert!(instead.contains(&format!("\"{text}\"")), "{text}: {instead}");
        }
    }
}
