//! How the API server is reached from within a pod.
//!
//! kube makes a client of any way to send requests. Its own way can also read kubeconfig files and run the
//! sign-in programs that those name; a gate never does, and the parsers for it would be a tenth of the image.

use std::fs;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore, crypto};
use tower::{BoxError, ServiceBuilder};

/// The token of the pod's service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A client made of what a pod is given: address, authority and token. Nothing is sent yet.
pub(super) fn client() -> Result<Client, BoxError> {
    token()?;
    let config = Config::incluster()?;
    let mut authorities = RootCertStore::empty();
    for authority in config.root_cert.iter().flatten() {
        authorities.add(CertificateDer::from(authority.as_slice()))?;
    }
    // named, because rustls cannot choose where the application has linked another provider too
    let tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .filter(authorised)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

/// The request with the token that is in the file now: the kubelet replaces it before it expires.
fn authorised(mut request: Request<Body>) -> Result<Request<Body>, BoxError> {
    let mut token = HeaderValue::try_from(format!("Bearer {}", token()?.trim()))?;
    token.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, token);
    Ok(request)
}

fn token() -> Result<String, BoxError> {
    fs::read_to_string(TOKEN)
        .map_err(|error| format!("no service-account token: {TOKEN}: {error}").into())
}
