//! The configuration of TLS.

use super::verifier::{AnyCertificate, Verifier};
use crate::config::Trust;
use rustls::{ClientConfig, client::Resumption, crypto::CryptoProvider};
use std::sync::Arc;

/// The only protocol that is spoken over TLS.
const HTTP_1_1: &[u8] = b"http/1.1";

/// TLS to servers that have a certificate according to `trust`.
///
/// # Errors
/// When the process's TLS provider has no version of TLS in common with this configuration.
pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig, rustls::Error> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous();
    let builder = if trust.skip_verify {
        builder.with_custom_certificate_verifier(Arc::new(AnyCertificate::new(&provider)))
    } else {
        builder.with_custom_certificate_verifier(Arc::new(Verifier::new(&trust.certificates, &provider)))
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    // A resumed session shows no certificate, so one that has expired since would go on being accepted.
    config.resumption = Resumption::disabled();
    Ok(config)
}
