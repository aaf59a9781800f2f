//! The tables of the guide that are made from the code: `make readme` writes them.

use std::fs;
use std::path::Path;

use crate::process::settings::{markdown_table, markdown_uri_options};
use crate::server::errors::server_errors_table;

/// A generated part: the page, the part's name, and what the code says.
type Part = (&'static str, &'static str, fn() -> String);

const PARTS: [Part; 3] = [
    ("docs/server-errors.md", "server errors", server_errors_table),
    ("docs/settings.md", "settings", markdown_table),
    ("docs/mongodb.md", "connection string options", markdown_uri_options),
];

#[test]
fn its_generated_tables_are_the_codes() {
    let update = std::env::var("UPDATE").is_ok_and(|update| update == "1");
    for (page, name, generate) in PARTS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let text = fs::read_to_string(&path).unwrap();
        let (opening, closing) = (format!("<!-- {name}: "), format!("<!-- end of {name} -->"));
        let (head, rest) = text.split_once(&opening).unwrap();
        let (comment, rest) = rest.split_once("-->\n").unwrap();
        let (written, tail) = rest.split_once(&closing).unwrap();
        let generated = generate();
        if update {
            let page = format!("{head}{opening}{comment}-->\n{generated}{closing}{tail}");
            fs::write(&path, page).unwrap();
            continue;
        }
        let differs = written.lines().zip(generated.lines()).find(|(ours, its)| ours != its);
        assert!(
            written == generated,
            "{page}: its part \"{name}\" is not what the code says; make readme updates it.\n\
             the first line that differs (page, code): {differs:#?}"
        );
    }
}
