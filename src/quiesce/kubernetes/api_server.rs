//! The API server, as the pod's service account sees it.

use std::time::Duration;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Error};
use tokio::sync::OnceCell;

use crate::process::exit::Outcome;
use crate::process::failure::Failure;
use crate::process::settings::Settings;
use crate::quiesce::kubernetes::connection;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(4);

/// Where a pod finds the namespace of its service account.
const NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The name under which changes appear in `managedFields` and Events.
pub(super) const MANAGER: &str = "upgrade-gate";

/// The API server, as the pod's service account sees it: connected to at the first call.
#[derive(Default, derive_more::Debug)]
#[debug("Server({namespace})")]
pub(super) struct Server {
    pub(super) namespace: String,
    client: OnceCell<Client>,
}

impl Server {
    pub(super) fn new(settings: &Settings) -> Self {
        let mounted = || std::fs::read_to_string(NAMESPACE).map(|text| text.trim().to_owned());
        let namespace = settings.pod.namespace.clone().or_else(|| mounted().ok());
        Server { namespace: namespace.unwrap_or_default(), client: OnceCell::new() }
    }

    /// One kind of object, in the gate's own namespace.
    pub(super) async fn objects(&self, kind: &ApiResource) -> Result<Api<DynamicObject>, Failure> {
        let client = self.client.get_or_try_init(|| async { connect(kind) });
        let client = client.await?;
        Ok(Api::namespaced_with(client.clone(), &self.namespace, kind))
    }

    /// Waits for the answer to a call, not too long; `None` if the object is not there.
    pub(super) async fn call<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Answer<T>, Failure> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(value)) => Ok(Answer::Value(value)),
            Ok(Err(Error::Api(status))) if status.code == 404 => Ok(Answer::Missing),
            Ok(Err(Error::Api(status))) if status.code == 409 => Ok(Answer::Conflict),
            Ok(Err(error)) => Err(self.failure(&error, doing)),
            Err(_) => Err(no_answer(doing, &format!("no answer within {} s", CALL.as_secs()))),
        }
    }

    fn failure(&self, error: &Error, doing: &str) -> Failure {
        let namespace = &self.namespace;
        match error {
            Error::Api(status) if status.code == 401 => Failure::new(
                Outcome::NotAuthorised,
                format!("the API server does not accept the pod's token, to {doing}"),
                "check that the pod's service account still exists, then run it again",
            ),
            Error::Api(status) if status.code == 403 => Failure::new(
                Outcome::NotAuthorised,
                format!("the gate may not {doing} in namespace {namespace}: {}", status.message),
                format!(
                    "grant its service account to {doing} there; docs/old-pods.md has the least Role"
                ),
            ),
            Error::Api(status) if status.code == 429 || status.code >= 500 => {
                no_answer(doing, &status.message)
            }
            Error::Api(status) => Failure::new(
                Outcome::NotQuiesced,
                format!("the API server refuses to {doing}: {}", status.message),
                "see what it objects to, then run it again",
            ),
            other => no_answer(doing, &deepest(other)),
        }
    }
}

/// What a call was answered with.
pub(super) enum Answer<T> {
    Value(T),
    Missing,
    /// The object is not as it was, or there already.
    Conflict,
}

impl<T> Answer<T> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Answer::Value(value) => Some(value),
            Answer::Missing | Answer::Conflict => None,
        }
    }
}

/// A client, or what the pod lacks to make one. Nothing is sent yet.
fn connect(kind: &ApiResource) -> Result<Client, Failure> {
    connection::client().map_err(|error| {
        Failure::new(
            Outcome::NotAuthorised,
            format!(
                "the pod lacks what it takes to ask the API server for {}: {error}",
                kind.plural
            ),
            "give the pod a service account with the least Role of docs/old-pods.md, and \
             automountServiceAccountToken: true",
        )
    })
}

fn no_answer(doing: &str, reason: &str) -> Failure {
    Failure::new(
        Outcome::NoServer,
        format!("the API server of Kubernetes could not be asked to {doing}: {reason}"),
        "check that it runs and that the pod reaches it, then run it again",
    )
}

/// What is at the bottom of an error: the layers above only say that something failed.
fn deepest(error: &Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

pub(super) fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}
