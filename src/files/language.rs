//! What no server would understand in filters and pipelines, or would understand otherwise than it looks: found
//! without one, at its place. An operator that is not known here may be a newer server's, so it is only a warning.

use std::collections::HashSet;

use crate::files::node::{Entry, Node, Value};
use crate::files::reader::{Reader, quoted};
use crate::files::values;
use crate::process::settings::slip_of;

/// The operators of filters, up to MongoDB 8.
const FILTER: &str = "$eq $ne $gt $gte $lt $lte $in $nin $all $size $exists $type $not $elemMatch $mod $regex $options \
    $geoIntersects $geoWithin $near $nearSphere $geometry $box $center $centerSphere $polygon $maxDistance \
    $minDistance $uniqueDocs $bitsAllClear $bitsAllSet $bitsAnyClear $bitsAnySet $and $or $nor $expr $jsonSchema \
    $text $where $comment $alwaysTrue $alwaysFalse $sampleRate $rand $ref $id $db";

/// Those of them that stand at the top of a filter, where fields stand.
const TOP: &str = "$and $or $nor $expr $jsonSchema $text $where $comment $alwaysTrue $alwaysFalse $sampleRate \
    $function $rand";

/// The operators of expressions, up to MongoDB 8.
const EXPRESSION: &str = "$abs $accumulator $acos $acosh $add $addToSet $allElementsTrue $and $anyElementTrue \
    $arrayElemAt $arrayToObject $asin $asinh $atan $atan2 $atanh $avg $binarySize $bitAnd $bitNot $bitOr $bitXor \
    $bottom $bottomN $bsonSize $ceil $cmp $concat $concatArrays $cond $const $convert $cos $cosh $count $dateAdd \
    $dateDiff $dateFromParts $dateFromString $dateSubtract $dateToParts $dateToString $dateTrunc $dayOfMonth \
    $dayOfWeek $dayOfYear $degreesToRadians $divide $eq $exp $filter $first $firstN $floor $function $getField $gt \
    $gte $hour $ifNull $in $indexOfArray $indexOfBytes $indexOfCP $isArray $isNumber $isoDayOfWeek $isoWeek \
    $isoWeekYear $last $lastN $let $literal $ln $log $log10 $lt $lte $ltrim $map $max $maxN $median $mergeObjects \
    $meta $millisecond $min $minN $minute $mod $month $multiply $ne $not $objectToArray $or $percentile $pow \
    $radiansToDegrees $rand $range $reduce $regexFind $regexFindAll $regexMatch $replaceAll $replaceOne \
    $reverseArray $round $rtrim $sampleRate $second $setDifference $setEquals $setField $setIntersection \
    $setIsSubset $setUnion $sin $sinh $size $slice $sortArray $split $sqrt $stdDevPop $stdDevSamp $strLenBytes \
    $strLenCP $strcasecmp $substr $substrBytes $substrCP $subtract $sum $switch $tan $tanh $toBool $toDate \
    $toDecimal $toDouble $toHashedIndexKey $toInt $toLong $toLower $toObjectId $toString $toUUID $toUpper $top \
    $topN $trim $trunc $tsIncrement $tsSecond $type $unsetField $week $year $zip";

const NEWER: &str = "an operator of a newer server is passed on as it is, and the server judges it";

/// The variables that every expression has.
const VARIABLES: &str =
    "NOW CLUSTER_TIME ROOT CURRENT REMOVE DESCEND PRUNE KEEP SEARCH_META USER_ROLES this value";

/// The types that `$type` knows by name.
const TYPES: &str = "double string object array binData undefined objectId bool date null regex dbPointer javascript \
    symbol javascriptWithScope int timestamp long decimal minKey maxKey number";

/// What the pipelines of a step can see of other collections: the name of each look-up, and the fields it reads.
pub(crate) type LookUps<'n> = Vec<(&'n str, Option<Vec<&'n str>>)>;

/// The look-ups of a step, as far as they are written as they should be.
pub(crate) fn look_ups(node: Option<&Node>) -> LookUps<'_> {
    let items = node.map(list).unwrap_or_default().iter();
    let read = |item| {
        let name = text_of(entry(item, "as")?)?;
        let fields = entry(item, "fields");
        let fields = fields.map(|node| node.items().iter().filter_map(text_of).collect());
        Some((name, fields))
    };
    items.filter_map(read).collect()
}

/// Looks through a filter.
pub(crate) fn filter(reader: &mut Reader<'_, '_>, node: &Node) {
    Language { reader, variables: HashSet::new(), found: None }.filter(node);
}

/// Looks through the stages of a pipeline; `found` is what its look-ups give an update, and `None` in a copy.
pub(crate) fn pipeline(reader: &mut Reader<'_, '_>, node: &Node, found: Option<&LookUps<'_>>) {
    for stage in list(node) {
        let mut language = Language { reader, variables: variables(stage), found };
        for entry in entries(stage) {
            language.stage(entry);
        }
    }
}

/// Looks through a document that is stored, for slips of the types that Extended JSON has.
pub(crate) fn document(reader: &mut Reader<'_, '_>, node: &Node) {
    list(node).iter().for_each(|item| document(reader, item));
    for entry in entries(node) {
        let types = values::TYPES.iter().map(|(key, _)| *key);
        let known = types.clone().any(|key| key == entry.key);
        if let Some(slip) = slip_of(&entry.key, types).filter(|_| entry.key.starts_with('$'))
            && !known
        {
            let message = format!("this stores a field called `{}`", entry.key);
            let expected = format!("did you mean the type `{slip}` of MongoDB's Extended JSON?");
            reader.mistakes.warn(&reader.source, &entry.at, message, expected);
        }
        document(reader, &entry.node);
    }
}

/// The variables that an expression may use: those that every one has, and those that are defined anywhere in it.
fn variables(node: &Node) -> HashSet<&str> {
    let mut variables = VARIABLES.split_whitespace().collect();
    defined(node, &mut variables);
    variables
}

/// Adds the variables that are defined anywhere in a node.
fn defined<'n>(node: &'n Node, variables: &mut HashSet<&'n str>) {
    for item in list(node) {
        defined(item, variables);
    }
    for entry in entries(node) {
        match entry.key.as_str() {
            "as" => variables.extend(text_of(&entry.node)),
            "vars" => variables.extend(entries(&entry.node).iter().map(|entry| entry.key.as_str())),
            _ => {}
        }
        defined(&entry.node, variables);
    }
}

struct Language<'l, 'a, 'b, 'n> {
    reader: &'l mut Reader<'a, 'b>,
    variables: HashSet<&'n str>,
    found: Option<&'l LookUps<'n>>,
}

impl Language<'_, '_, '_, '_> {
    fn wrong(&mut self, at: &Entry, message: impl Into<String>, expected: &str) {
        self.reader.wrong(&at.at, message, expected);
    }

    /// An operator that may be a slip, or one of a newer server.
    fn unknown(&mut self, entry: &Entry, known: &str) {
        let key = &entry.key;
        let message = format!("upgrade-gate knows no operator `{key}`");
        let mut words = known.split_whitespace().chain(values::TYPES.iter().map(|(key, _)| *key));
        if let Some(word) = words.clone().find(|word| word.eq_ignore_ascii_case(key)) {
            return self.wrong(
                entry,
                message,
                &format!("write `{word}`: small and capital letters differ"),
            );
        }
        let expected = match slip_of(key, &mut words) {
            Some(slip) => format!("did you mean `{slip}`? ({NEWER})"),
            None => NEWER.to_owned(),
        };
        self.reader.mistakes.warn(&self.reader.source, &entry.at, message, expected);
    }

    fn filter(&mut self, node: &Node) {
        for entry in entries(node) {
            match entry.key.as_str() {
                "$and" | "$or" | "$nor" => {
                    let items = list(&entry.node);
                    if items.is_empty() || items.iter().any(|item| !is_map(item)) {
                        let message = format!("`{}` needs a list of filters", entry.key);
                        let expected = format!("`{}: [ {{ a: 1 }}, {{ b: 2 }} ]`", entry.key);
                        self.wrong(entry, message, &expected);
                    }
                    items.iter().for_each(|item| self.filter(item));
                }
                "$expr" => {
                    let mut variables = variables(&entry.node);
                    variables.extend(&self.variables);
                    let expression = &entry.node;
                    Language { reader: self.reader, variables, found: None }.expression(expression);
                }
                key if has(TOP, key) => {}
                key if has(FILTER, key) => {
                    let expected = format!("`field: {{ {key}: … }}`");
                    self.wrong(entry, format!("`{key}` stands below a field"), &expected);
                }
                key if key.starts_with('$') => self.unknown(entry, TOP),
                _ => self.predicate(&entry.node),
            }
        }
    }

    /// What a filter says of a field.
    fn predicate(&mut self, node: &Node) {
        self.constant(node);
        let operators = match is_operators(node) {
            true => entries(node),
            false => return,
        };
        if let Some(field) = operators.iter().find(|entry| !entry.key.starts_with('$')) {
            let message = format!("`{}` stands among operators", field.key);
            self.wrong(field, message, "write operators, or a document that the field equals");
            return;
        }
        for entry in operators {
            let value = &entry.node;
            match entry.key.as_str() {
                "$in" | "$nin" | "$all" if !matches!(value.value, Value::List(_)) => {
                    let expected = format!("`{}: [ 1, 2 ]`", entry.key);
                    self.wrong(entry, format!("`{}` needs a list", entry.key), &expected);
                }
                "$in" | "$nin" | "$all" => list(value).iter().for_each(|item| self.constant(item)),
                "$not" if is_map(value) => self.predicate(value),
                "$not" => self.wrong(entry, "`$not` needs operators", "`$not: { $gt: 1 }`"),
                "$elemMatch" if !is_map(value) => {
                    let expected = "`$elemMatch: { field: 1 }`, or operators for plain elements";
                    self.wrong(entry, "`$elemMatch` needs a filter", expected);
                }
                "$elemMatch" if is_operators(value) && !is_filter(value) => self.predicate(value),
                "$elemMatch" => self.filter(value),
                "$exists" if matches!(value.value, Value::Text(_) | Value::Null) => {
                    let message = "`$exists` needs true or false";
                    self.wrong(entry, message, "`$exists: true`, or `$exists: false`");
                }
                "$type" => {
                    for node in value.items() {
                        let Some(name) = text_of(node).filter(|name| !has(TYPES, name)) else {
                            continue;
                        };
                        let message = format!("no type is called \"{name}\"");
                        let expected = match slip_of(name, TYPES.split_whitespace()) {
                            Some(slip) => format!("did you mean `{slip}`?"),
                            None => format!("known are {}", TYPES.replace(' ', ", ")),
                        };
                        self.reader.wrong(&node.span, message, expected);
                    }
                }
                "$eq" | "$ne" | "$gt" | "$gte" | "$lt" | "$lte" => self.constant(value),
                key if has(FILTER, key) => {}
                _ => self.unknown(entry, FILTER),
            }
        }
    }

    /// A value of a filter, which no field's name stands for.
    fn constant(&mut self, node: &Node) {
        let Some(text) = text_of(node) else { return };
        let name = text.trim_start_matches('$');
        if text.len() > name.len() && name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            let message = format!("in a filter \"{text}\" is a string, and stands for no value");
            let expected = "to compare with a field or a variable, write \
                            `$expr: { $eq: [ $one_field, $other_field ] }`";
            self.reader.mistakes.warn(&self.reader.source, &node.span, message, expected);
        }
    }

    fn stage(&mut self, stage: &Entry) {
        let argument = &stage.node;
        match stage.key.as_str() {
            "$set" | "$addFields" | "$project" => {
                let fields = entries(argument);
                if fields.is_empty() && is_map(argument) && stage.key != "$project" {
                    let message = format!("`{}` sets nothing", stage.key);
                    self.wrong(stage, message, "`$set: { position: 0 }`");
                }
                for (at, field) in fields.iter().enumerate() {
                    self.path(&field.key, &field.at);
                    let inside = |one: &str, other: &str| {
                        one.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'))
                    };
                    let clash = fields[..at].iter().find(|other| {
                        inside(&field.key, &other.key) || inside(&other.key, &field.key)
                    });
                    if let Some(other) = clash {
                        let message = format!("`{}` and `{}` overlap", other.key, field.key);
                        self.wrong(field, message, "set one in a stage of its own");
                    }
                    self.expression(&field.node);
                }
            }
            "$unset" => {
                let names = argument.items();
                if names.is_empty() {
                    self.wrong(stage, "`$unset` removes nothing", "`$unset: [ order ]`");
                }
                for node in names {
                    match text_of(node) {
                        Some(path) if path.starts_with('$') && path.len() > 1 => {
                            let expected =
                                format!("without the $: `$unset: {}`", path.trim_matches('$'));
                            let message = "`$unset` takes the names of fields";
                            self.reader.wrong(&node.span, message, expected);
                        }
                        Some(path) => self.path(path, &node.span),
                        None => {}
                    }
                }
            }
            "$unwind" => {
                let path = entry(argument, "path").unwrap_or(argument);
                let right = text_of(path).is_some_and(|path| path.starts_with('$'));
                if !right {
                    let expected =
                        "with a $: `$unwind: $comments`, or `$unwind: { path: $comments }`";
                    self.reader.wrong(&path.span, "`$unwind` needs the path of an array", expected);
                }
            }
            "$replaceRoot" => {
                if let Some(unknown) = entries(argument).iter().find(|it| it.key != "newRoot") {
                    let message = format!("unknown key `{}`", unknown.key);
                    self.wrong(unknown, message, "`$replaceRoot: { newRoot: … }`");
                }
                self.expression(argument);
            }
            "$replaceWith" => self.expression(argument),
            "$match" => self.filter(argument),
            _ => {}
        }
    }

    /// A path that a stage writes or removes.
    fn path(&mut self, path: &str, at: &crate::files::node::Span) {
        let (message, expected) = if path.split('.').any(|part| part.starts_with('$')) {
            let expected = "a field's name has no $ here; elements of arrays are changed with $map";
            ("a part of the path begins with `$`", expected)
        } else if path.split('.').any(str::is_empty) {
            ("a part of the path is empty", "a field's name, with dots for a path: `owner.id`")
        } else {
            if path.split('.').skip(1).any(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
                let message = format!("`{path}` names a field, and no position in an array");
                let expected =
                    "in an array each element gets such a field; one element is changed with $map";
                self.reader.mistakes.warn(&self.reader.source, at, message, expected);
            }
            return;
        };
        self.reader.wrong(at, message, expected);
    }

    fn expression(&mut self, node: &Node) {
        match &node.value {
            Value::Text(text) => self.reference(node, text),
            Value::List(items) => items.iter().for_each(|item| self.expression(item)),
            Value::Map(entries) if values::typed(entries).is_some() => {}
            Value::Map(entries) => {
                let operator = entries.iter().find(|entry| entry.key.starts_with('$'));
                if let Some(operator) = operator
                    && entries.len() > 1
                {
                    let second = entries.iter().find(|entry| entry.key != operator.key);
                    let message = format!("`{}` is not alone", operator.key);
                    let expected = "an operator is the only key of its document: write a document \
                                    for each, one inside the other";
                    self.wrong(second.unwrap_or(operator), message, expected);
                    return;
                }
                for entry in entries {
                    match entry.key.as_str() {
                        "$literal" | "$const" | "$meta" => continue,
                        key if key.starts_with('$') && !has(EXPRESSION, key) => {
                            self.unknown(entry, EXPRESSION);
                        }
                        _ => {}
                    }
                    self.expression(&entry.node);
                }
            }
            _ => {}
        }
    }

    /// A text of an expression, which may be a field or a variable.
    fn reference(&mut self, node: &Node, text: &str) {
        let Some(path) = text.strip_prefix('$') else { return };
        let variable = path.strip_prefix('$');
        let parts: Vec<&str> = variable.unwrap_or(path).split('.').collect();
        let wrong = |part: &&str| part.is_empty() || part.starts_with('$');
        if parts.iter().any(wrong) {
            let expected = "a field is written `$owner.id`, a variable `$$NOW`, and any other \
                            string that begins with $ as `{ $literal: \"$5\" }`";
            self.reader.wrong(&node.span, "this is not the path of a field", expected);
        } else if variable.is_some() && !self.variables.contains(parts[0]) {
            let message = format!("no variable is called `$${}`", parts[0]);
            let expected = match slip_of(parts[0], self.variables.iter().copied()) {
                Some(slip) => format!("did you mean `$${slip}`?"),
                None => format!("a field of the document is `${}`", parts[0]),
            };
            self.reader.mistakes.warn(&self.reader.source, &node.span, message, expected);
        } else if let Some(found) = self.found
            && parts[0] == "_found"
        {
            self.found(node, &parts[1..], found);
        }
    }

    /// A path into what was looked up: a wrong name would read as a missing field.
    fn found(&mut self, node: &Node, path: &[&str], found: &LookUps<'_>) {
        let Some(name) = path.first() else { return };
        let Some((_, fields)) = found.iter().find(|(known, _)| known == name) else {
            let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
            let expected = match names[..] {
                [] => {
                    "`lookup: [ { from: people, local: owner, foreign: _id, as: owner } ]`".into()
                }
                _ => format!("it has {}", quoted(&names)),
            };
            let message = format!("the step has no look-up called `{name}`");
            return self.reader.wrong(&node.span, message, expected);
        };
        let (Some(fields), Some(field)) = (fields, path.get(1)) else { return };
        let top = |field: &str| field.split('.').next().unwrap_or_default().to_owned();
        if *field != "_id" && !fields.iter().any(|known| top(known) == *field) {
            let message = format!("the look-up `{name}` does not read the field `{field}`");
            self.reader.wrong(&node.span, message, "add it to the look-up's `fields`");
        }
    }
}

fn has(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn entries(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    entries(node).iter().find(|entry| entry.key == key).map(|entry| &entry.node)
}

fn text_of(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn is_map(node: &Node) -> bool {
    matches!(node.value, Value::Map(_))
}

/// Whether these are operators, and neither a document nor a value of another type.
fn is_operators(node: &Node) -> bool {
    let entries = entries(node);
    values::typed(entries).is_none() && entries.iter().any(|entry| entry.key.starts_with('$'))
}

/// Whether these are operators of a whole filter, as `$or`.
fn is_filter(node: &Node) -> bool {
    entries(node).iter().any(|entry| has(TOP, &entry.key))
}
