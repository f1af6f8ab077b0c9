//! The certificate authority of a sandbox.
//!
//! Each sandbox has its own, so that a guest which got hold of one could do nothing to another.
//! Its key stays on the host.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Name;

/// Name of the issuer in every certificate. Authorities of several sandboxes are told apart by
/// their keys.
const COMMON_NAME: &str = "SmolVM sandbox authority";

/// Half of the time that a leaf is valid, before and after it is made. A guest that was restored
/// from a snapshot has an old clock for a while. Some programs refuse leaves of more than 398 days
/// (CA/Browser Forum Baseline Requirements 2.0 §6.3.2).
const LEAF_HALF_LIFE: Duration = Duration::from_hours(180 * 24);

/// Why there is no authority, or no certificate by it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A certificate or key could not be made.
    #[error("cannot make a certificate")]
    Make(#[source] rcgen::Error),
    /// What was kept is not a certificate and a key.
    #[error("no certificate in the authority's file")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// What was kept has no key.
    #[error("no private key in the authority's file")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// The key is of another kind.
    #[error("the authority's private key is not of its kind")]
    KeyKind,
    /// The certificate is of another key.
    #[error("the authority's certificate and private key do not belong together")]
    Pair,
    /// TLS could not be set up with a certificate.
    #[error("cannot use a certificate")]
    Use(#[source] rustls::Error),
}

/// A certificate authority with its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    /// The key of every leaf: they are all used here, and making keys takes time.
    leaf_key: KeyPair,
}

impl Authority {
    /// Returns a new authority.
    ///
    /// # Errors
    ///
    /// When no key can be made.
    pub fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let certificate = parameters()
            .self_signed(&key)
            .map_err(AuthorityError::Make)?;
        Self::from_parts(key, certificate.pem(), certificate.der().clone())
    }

    /// Returns the authority that [`Authority::to_pem`] wrote.
    ///
    /// # Errors
    ///
    /// When the text is not one, or no key can be made for leaves.
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(AuthorityError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(AuthorityError::Key)?;
        let key = KeyPair::try_from(&key).map_err(|_| AuthorityError::KeyKind)?;
        let key_in_certificate = key.subject_public_key_info();
        if memchr::memmem::find(&certificate, &key_in_certificate).is_none() {
            return Err(AuthorityError::Pair);
        }
        let end = "-----END CERTIFICATE-----";
        let length = text.find(end).map_or(text.len(), |start| start + end.len());
        let certificate_pem = text[..length].trim_start().to_owned() + "\n";
        Self::from_parts(key, certificate_pem, certificate)
    }

    fn from_parts(
        key: KeyPair,
        certificate_pem: String,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, AuthorityError> {
        Ok(Self {
            issuer: Issuer::new(parameters(), key),
            certificate_pem,
            certificate,
            leaf_key: KeyPair::generate().map_err(AuthorityError::Make)?,
        })
    }

    /// Returns the authority as text, with its private key: to be kept where only its owner reads.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificate_pem.clone() + &self.issuer.key().serialize_pem()
    }

    /// Returns the certificate that the guest is to trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns a certificate for a host, its issuer's, and its private key.
    pub(super) fn make_leaf(
        &self,
        host: &Name,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let mut leaf = CertificateParams::new([host.to_string()]).map_err(AuthorityError::Make)?;
        let now = SystemTime::now();
        leaf.not_before = (now - LEAF_HALF_LIFE).into();
        leaf.not_after = (now + LEAF_HALF_LIFE).into();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = leaf
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(AuthorityError::Make)?;
        let key = PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der());
        Ok((
            vec![leaf.der().clone(), self.certificate.clone()],
            key.into(),
        ))
    }
}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Returns what is in every authority's certificate besides its key. Fixed, so that one which is
/// read again issues under the same name.
fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.remove(DnType::CommonName);
    parameters
        .distinguished_name
        .push(DnType::CommonName, COMMON_NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    // As long as any sandbox is kept, and whatever its guest's clock says.
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2100, 1, 1);
    parameters
}
