//! How the deployment calls the settings: `GATE_SETTING_NAMES`, and messages in its words.

use std::collections::BTreeMap;

use super::value::{PREFIX, is_secretive, shown, wrong};
use crate::process::failure::Failure;

const NAME: &str = "GATE_SETTING_NAMES";

/// The deployment's names of settings, by their variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SettingNames(BTreeMap<String, String>);

impl SettingNames {
    /// Reads `GATE_FROM_VERSION=gate.settings.fromVersion,GATE_MODE=gate.manual.mode`. A variable that this program
    /// does not have is let pass: one list may serve several programs.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let text = text.unwrap_or_default();
        let parts = text.split(',').map(str::trim);
        let names = parts.filter(|part| !part.is_empty()).map(|part| {
            let (variable, name) = part.split_once('=').unwrap_or_default();
            let (variable, name) = (variable.trim(), name.trim());
            let known = variable.starts_with(PREFIX) && variable.chars().all(is_of_variable);
            let secretive = is_secretive(text);
            match known && !secretive && !name.is_empty() && !name.contains(PREFIX) {
                true => Ok((variable.to_owned(), name.to_owned())),
                false => Err(wrong(
                    format!(
                        "{NAME} has {}, which does not name a setting",
                        shown(if secretive { text } else { part })
                    ),
                    format!(
                        "set {NAME} to GATE_…=name, separated by commas, as in \
                         GATE_FROM_VERSION=gate.settings.fromVersion"
                    ),
                )),
            }
        });
        Ok(SettingNames(names.collect::<Result<_, _>>()?))
    }

    /// The names in the process's environment, for messages before the settings are read. Empty if they are missing or
    /// wrong.
    pub(crate) fn from_env() -> Self {
        let text = std::env::var(NAME).ok();
        Self::parse(text.as_deref()).unwrap_or_default()
    }

    /// A message in the deployment's words: `GATE_X` is called by its name there, and in brackets by its own;
    /// `GATE_X=value`, which can be typed as it is, by that name alone.
    pub(crate) fn named(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let mut named = String::with_capacity(text.len() + 64);
        let mut rest = text;
        while let Some(at) = rest.find(PREFIX) {
            named.push_str(&rest[..at]);
            let end = rest[at..].find(|c| !is_of_variable(c)).map_or(rest.len(), |end| at + end);
            let (variable, after) = (&rest[at..end], &rest[end..]);
            rest = after;
            // a value, a quotation or a part of another word is not a setting that is named
            let stands_alone = !named.ends_with(|c: char| {
                is_of_variable(c) || c.is_alphanumeric() || "=\"'".contains(c)
            });
            match self.0.get(variable).filter(|_| stands_alone) {
                Some(name) if after.starts_with('=') => named.push_str(name),
                // it has been named already
                Some(name) if named.ends_with(&format!("{name} (")) => named.push_str(variable),
                Some(name) => named.push_str(&format!("{name} ({variable})")),
                None => named.push_str(variable),
            }
        }
        named + rest
    }
}

fn is_of_variable(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> SettingNames {
        SettingNames::parse(Some(text)).unwrap()
    }

    #[test]
    fn a_message_names_the_deployments_setting_and_the_variable() {
        let names = names(
            "GATE_FROM_VERSION=gate.settings.fromVersion, GATE_INITIALISE=gate.settings.initialise,\
             GATE_MODE=gate.manual.mode,GATE_MONGODB_URI=gate.mongodb.uri,GATE_UPGRADES=elsewhere,",
        );
        for (said, named) in [
            (
                "GATE_FROM_VERSION is 1.0.0",
                "gate.settings.fromVersion (GATE_FROM_VERSION) is 1.0.0",
            ),
            (
                "for an existing database set GATE_FROM_VERSION; else set GATE_INITIALISE=fresh",
                "for an existing database set gate.settings.fromVersion (GATE_FROM_VERSION); else set \
                 gate.settings.initialise=fresh",
            ),
            (
                "set GATE_MODE=record, GATE_TARGET_VERSION",
                "set gate.manual.mode=record, GATE_TARGET_VERSION",
            ),
            // a longer name is another setting
            ("GATE_MONGODB_URI_FILE", "GATE_MONGODB_URI_FILE"),
            ("neither GATE_MONGODB_URI", "neither gate.mongodb.uri (GATE_MONGODB_URI)"),
            // values
            ("GATE_EXPECT_VERSION=GATE_MODE", "GATE_EXPECT_VERSION=GATE_MODE"),
            ("it is \"GATE_MODE\"", "it is \"GATE_MODE\""),
            ("MY_GATE_MODE", "MY_GATE_MODE"),
            ("", ""),
        ] {
            assert_eq!(names.named(said), named);
            assert_eq!(names.named(named), named, "twice is once");
        }
        assert_eq!(SettingNames::default().named("GATE_MODE"), "GATE_MODE");
    }

    #[test]
    fn what_names_no_setting_is_refused() {
        for text in
            ["x", "GATE_MODE", "GATE_MODE=", "=x", "mode=x", "GATE_MODE=a,b", "GATE_MODE=GATE_MODE"]
        {
            let failure = SettingNames::parse(Some(text)).unwrap_err();
            assert!(failure.message.starts_with(NAME), "{failure}");
            assert!(
                failure.next.contains("GATE_FROM_VERSION=gate.settings.fromVersion"),
                "{failure}"
            );
        }
        let failure = SettingNames::parse(Some("GATE_MODE=mongodb://user:s3,cret@host/db"));
        assert!(!failure.unwrap_err().to_string().contains("cret"));
        assert_eq!(SettingNames::parse(None), Ok(SettingNames::default()));
        assert_eq!(names(""), SettingNames::default());
    }
}
