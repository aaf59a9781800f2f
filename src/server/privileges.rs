//! What the connection's user may do, and what a run needs.

use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::error::Error;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;

/// A privilege that a run needs: an action on a collection, or on the whole database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) action: &'static str,
    pub(crate) collection: Option<String>,
}

/// A privilege on the whole database.
pub(crate) fn everywhere(action: &'static str) -> Need {
    Need { action, collection: None }
}

/// Privileges on one collection.
pub(crate) fn on(actions: &[&'static str], collection: &str) -> Vec<Need> {
    let need = |action: &&'static str| Need { action, collection: Some(collection.to_owned()) };
    actions.iter().map(need).collect()
}

/// The first need that the connection's user lacks; `None` if the server does not tell.
pub(crate) async fn missing_privilege(
    database: &Database,
    needs: &[Need],
) -> Result<Option<Need>, Error> {
    let status =
        database.run_command(doc! { "connectionStatus": 1, "showPrivileges": true }).await?;
    let Ok(auth) = status.get_document("authInfo") else { return Ok(None) };
    // without a user the server either asks for none, or refuses the first command
    if auth.get_array("authenticatedUsers").map_or(true, |users| users.is_empty()) {
        return Ok(None);
    }
    let Ok(privileges) = auth.get_array("authenticatedUserPrivileges") else { return Ok(None) };
    let privileges: Vec<&Document> = privileges.iter().filter_map(|p| p.as_document()).collect();
    Ok(needs
        .iter()
        .find(|need| !privileges.iter().any(|p| grants(p, database.name(), need)))
        .cloned())
}

fn grants(privilege: &Document, database: &str, need: &Need) -> bool {
    let acts = privilege.get_array("actions").is_ok_and(|actions| {
        actions
            .iter()
            .any(|a| matches!(a.as_str(), Some(a) if a == need.action || a == "anyAction"))
    });
    let Ok(resource) = privilege.get_document("resource") else { return false };
    if resource.get_bool("anyResource").unwrap_or(false) {
        return acts;
    }
    let (Ok(db), Ok(collection)) = (resource.get_str("db"), resource.get_str("collection")) else {
        return false;
    };
    let covers = match &need.collection {
        Some(name) => collection.is_empty() || collection == name,
        None => collection.is_empty(),
    };
    acts && (db.is_empty() || db == database) && covers
}

/// The closed gate for a missing privilege.
pub(crate) fn lacks(need: &Need, database: &str) -> Failure {
    let on = match &need.collection {
        Some(collection) => format!("{database}.{collection}"),
        None => format!("the database {database}"),
    };
    Failure::new(
        Outcome::NotAuthorised,
        format!("the user of the connection string may not {} on {on}", need.action),
        format!(
            "grant it the privilege {} on {on}; docs/mongodb.md has the least role",
            need.action
        ),
    )
}
