//! The connection to the API server, made of what a pod is given.
//!
//! `kube`'s own `Client::try_from` reads kubeconfig files and runs credential plugins as well: a YAML parser,
//! JSONPath and regular expressions, a fifth of the program, none of which a pod needs.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::Body;
use kube::client::middleware::BaseUriLayer;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tower::{BoxError, ServiceBuilder};

use super::CALL;

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const AUTHORITIES: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Calls go to the server that every pod's environment names, with the token of its service account. An
/// error says what of it the pod has not got; nothing is sent yet.
pub(super) fn connect(namespace: &str) -> Result<Client, BoxError> {
    let server = address(&set("KUBERNETES_SERVICE_HOST")?, &set("KUBERNETES_SERVICE_PORT")?)?;
    bearer(Path::new(TOKEN)).map_err(about("no service-account token"))?;
    let tls = trusting(Path::new(AUTHORITIES))?;
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1();
    // An upgrade takes long between two calls: what lies between may have forgotten the connection.
    let http = Http::builder(TokioExecutor::new()).pool_idle_timeout(CALL).build(https.build());
    let service = ServiceBuilder::new()
        .layer(BaseUriLayer::new(server))
        .filter(|request: Request<Body>| authorised(request, Path::new(TOKEN)))
        .service(http);
    Ok(Client::new(service, namespace))
}

fn set(name: &str) -> Result<String, BoxError> {
    std::env::var(name).map_err(about(name))
}

fn address(host: &str, port: &str) -> Result<Uri, BoxError> {
    let port: u16 = port.parse().map_err(about(format!("port {port:?}")))?;
    let server = match host.contains(':') {
        true => format!("https://[{host}]:{port}"),
        false => format!("https://{host}:{port}"),
    };
    server.parse().map_err(about(&server))
}

/// TLS that trusts the cluster's own authorities and no others: not those of the web.
fn trusting(authorities: &Path) -> Result<ClientConfig, BoxError> {
    let pem = std::fs::read(authorities).map_err(about(authorities.display()))?;
    let mut roots = RootCertStore::empty();
    // As Kubernetes' own clients do it: one that cannot be read does not spoil the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() {
        return Err(format!("{}: no certificate in it", authorities.display()).into());
    }
    // Named, for an application may have linked another provider too.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(tls
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The request with the token as it is now: the kubelet replaces it long before it expires.
fn authorised(mut request: Request<Body>, token: &Path) -> Result<Request<Body>, BoxError> {
    request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
    Ok(request)
}

fn bearer(token: &Path) -> Result<HeaderValue, BoxError> {
    let text = std::fs::read_to_string(token).map_err(about(token.display()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Says what an error is about.
fn about<E: Display>(what: impl Display) -> impl Fn(E) -> BoxError {
    move |error| format!("{what}: {error}").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Response;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn each_call_carries_the_token_as_it_is_then() {
        let file = std::env::temp_dir().join(format!("upgrade-gate-token-{}", std::process::id()));
        let seen = Arc::new(Mutex::new(vec![]));
        let (token, heard) = (file.clone(), seen.clone());
        let server = tower::service_fn(move |request: Request<Body>| {
            heard.lock().unwrap().push(request.headers()[AUTHORIZATION].clone());
            async { Ok::<_, BoxError>(Response::new(Body::from(b"{}".to_vec()))) }
        });
        let filter = move |request: Request<Body>| authorised(request, &token);
        let client = Client::new(ServiceBuilder::new().filter(filter).service(server), "lab");
        let call = || client.request::<Value>(Request::get("/").body(vec![]).unwrap());

        std::fs::write(&file, "first\n").unwrap();
        call().await.unwrap();
        std::fs::write(&file, "second").unwrap();
        call().await.unwrap();
        std::fs::remove_file(&file).unwrap();
        let error = call().await.unwrap_err();

        assert_eq!(*seen.lock().unwrap(), ["Bearer first", "Bearer second"]);
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn an_address_of_ipv6_is_put_in_brackets() {
        let of = |host| address(host, "6443").unwrap().to_string();
        assert_eq!(of("fd00::1"), "https://[fd00::1]:6443/");
        assert_eq!(of("10.77.0.1"), "https://10.77.0.1:6443/");
        assert_eq!(of("kubernetes.default.svc"), "https://kubernetes.default.svc:6443/");
        assert!(address("10.77.0.1", "https").is_err());
    }

    #[test]
    fn what_holds_no_certificate_is_no_authority() {
        let error = trusting(Path::new("Cargo.toml")).unwrap_err();
        assert_eq!(error.to_string(), "Cargo.toml: no certificate in it");
        let error = trusting(Path::new("no-such-file")).unwrap_err();
        assert!(error.to_string().starts_with("no-such-file: "), "{error}");
    }
}
