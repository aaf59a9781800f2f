//! One upgrade: a file whose name begins with its version.

use sha2::{Digest, Sha256};

use crate::authoring::step::Step;
use crate::authoring::upgrade::{Upgrade, UpgradeFile};
use crate::files::condition;
use crate::files::directory::UpgradeName;
use crate::files::node::{Node, Span};
use crate::files::reader::{Reader, hexadecimal};
use crate::files::steps::kinds;
use crate::version::Version;

/// An upgrade, and where its parts are written.
pub(crate) struct Written {
    pub(crate) version: Version,
    pub(crate) upgrade: Upgrade,
    /// Where the version is.
    pub(crate) version_at: Span,
    pub(crate) description_at: Span,
    /// Where the kind of each step is.
    pub(crate) steps_at: Vec<Span>,
    /// What the file says, in one form.
    pub(crate) content: String,
}

pub(crate) fn read(
    reader: &mut Reader<'_, '_>,
    root: &Node,
    name: &UpgradeName,
) -> Option<Written> {
    let mut fields = reader.fields(root)?;
    let start = root.span.start..root.span.start;
    let of = (&start, "the upgrade");
    let expected =
        format!("the version that the file's name begins with: `version: {}`", name.version());
    let version_node = fields.required(reader, "version", of, &expected);
    let version = version_node.and_then(|node| reader.version(node).map(|version| (version, node)));
    if let Some((version, node)) = &version
        && !name.is_of(version)
    {
        let expected = format!(
            "write `version: {}`, or let the name of the file begin with {version} and a dash",
            name.version()
        );
        let message =
            format!("this is {version}, and the file's name begins with {}", name.version());
        reader.wrong(&node.span, message, expected);
    }
    let expected = "what it does, in a line: `description: give every card a position`";
    let description_node = fields.required(reader, "description", of, expected);
    let description =
        description_node.and_then(|node| reader.line(node).map(|text| (text.to_owned(), node)));
    let conditions = fields.optional("conditions").and_then(|node| reader.list(node));
    let conditions: Vec<_> =
        conditions.unwrap_or_default().iter().map(|node| condition::read(reader, node)).collect();
    let expected = "what is to be done; `steps: []` where only older code is to be kept out";
    let steps = fields.required(reader, "steps", of, expected);
    let steps = steps.and_then(|node| reader.list(node));
    let steps: Option<Vec<Option<(Step, Span)>>> = steps.map(|steps| {
        let numbered = steps.iter().enumerate();
        numbered.map(|(at, node)| kinds::read(reader, node, (&name.stem, at + 1))).collect()
    });
    fields.finish(reader);
    let (version, version_node) = version?;
    let (description, description_node) = description?;
    let mut content = String::new();
    root.canonical(&mut content);
    for (name, digest) in &reader.programs {
        content += &format!("\n{name}: {digest}");
    }
    let sha256 = hexadecimal(&Sha256::digest(content.as_bytes()));
    let file = UpgradeFile { name: name.stem.clone(), sha256 };
    let mut upgrade = Upgrade::new(version.to_string(), description).of_file(file);
    let mut steps_at = vec![];
    // what was not understood was told, and keeps the rest from being used
    for condition in conditions.into_iter().flatten() {
        upgrade = upgrade.condition(condition);
    }
    for (step, at) in steps.into_iter().flatten().flatten() {
        upgrade = upgrade.step(step);
        steps_at.push(at);
    }
    Some(Written {
        version,
        upgrade,
        version_at: version_node.span.clone(),
        description_at: description_node.span.clone(),
        steps_at,
        content,
    })
}
