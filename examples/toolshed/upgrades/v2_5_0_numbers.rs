//! Loans get numbers, from 1 in each year, and each year a counter that says the last one.

use upgrade_gate::bson::{DateTime, RawDocument, doc, rawdoc};
use upgrade_gate::{
    ActionType, Command, Edits, Found, Handle, Keys, Lookup, StepError, Transaction, Transform,
    Upgrade, UpgradeAction,
};

/// No step is convergent: where old code still adds loans, the numbers of a year would depend on when.
/// So the upgrade needs a replica set, and old code that has stopped.
pub fn upgrade() -> Upgrade {
    Upgrade::new("2.5.0", "number the loans of each year")
        // emptied by 2.4.0; what old code adds in the moment before a drop would be lost with it
        .step(Command::drop_collection("assets"))
        .step(
            Transform::new("loans", remember_order)
                .named("order")
                .fields(["out"])
                .inserts_into("loan_order")
                .action(ActionType::Insert, "ordered", "Put {n} loan(s) in order"),
        )
        .step(Command::create_index("loan_order", "by_year", doc! { "year": 1 }))
        .step(
            Transform::new("loans", number)
                .named("number")
                .fields(["out", "number"])
                .lookup(Lookup::new("year", "loan_order", "year", own_year))
                .action(ActionType::Update, "numbered", "Number {n} loan(s)"),
        )
        .step(Transaction::new("counters", ["loan_order", "counters"], |handle| {
            Box::pin(counters(handle))
        }))
        .step(Command::drop_collection("loan_order"))
        .step(Command::create_index("loans", "by_number", doc! { "number": 1 }).unique())
}

fn year(out: DateTime) -> Result<i32, StepError> {
    let text = out.try_to_rfc3339_string()?;
    let year = text.split('-').next().and_then(|year| year.parse().ok());
    year.ok_or_else(|| StepError::refused("out is not in a year that can be written"))
}

/// Fills the helper collection: it holds only what the number of each loan depends on.
fn remember_order(loan: &RawDocument, _: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let (id, out) = (loan.get_object_id("_id")?, loan.get_datetime("out")?);
    edits.insert("loan_order", rawdoc! { "_id": id, "year": year(out)?, "out": out });
    edits.count("ordered", 1);
    Ok(())
}

fn own_year(loan: &RawDocument, keys: &mut Keys) {
    if let Ok(Ok(year)) = loan.get_datetime("out").map(year) {
        keys.add(year);
    }
}

fn number(loan: &RawDocument, found: &Found, edits: &mut Edits) -> Result<(), StepError> {
    let own = (loan.get_datetime("out")?, loan.get_object_id("_id")?);
    let year = year(own.0)?;
    let mut before = 0;
    for other in found.all("year", year.into())? {
        if (other.get_datetime("out")?, other.get_object_id("_id")?) < own {
            before += 1;
        }
    }
    edits.set("number", format!("{year}/{:04}", before + 1));
    edits.count("numbered", 1);
    Ok(())
}

async fn counters(handle: &mut Handle<'_>) -> Result<Vec<UpgradeAction>, StepError> {
    let last = doc! { "$group": { "_id": "$year", "last": { "$sum": 1 } } };
    let years = handle.aggregate("loan_order", vec![last, doc! { "$sort": { "_id": 1 } }]).await?;
    let mut counters = vec![];
    for year in &years {
        let id = format!("loans {}", year.get_i32("_id")?);
        counters.push(rawdoc! { "_id": id, "last": year.get_i32("last")? });
    }
    let n = counters.len();
    if n > 0 {
        handle.insert("counters", counters).await?;
    }
    Ok(vec![
        UpgradeAction::new(ActionType::Insert, "counters", format!("Begin {n} counter(s)"))
            .detail("inserted", n as i64),
    ])
}
