//! The certificates and keys of one control plane, all of its own certificate authority.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::Error;
use crate::error::Tried;
use crate::files::write_private;

/// The folder of the files, below the data folder.
pub(crate) const FOLDER: &str = "pki";

/// What a client needs.
pub(crate) struct Pki {
    pub(crate) ca_pem: String,
    pub(crate) admin: ClientCertificate,
    pub(crate) controller_manager: ClientCertificate,
}

/// A certificate by which a client says who it is, and its key, both PEM.
pub(crate) struct ClientCertificate {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    /// The certificates in the data folder; made there if there are none.
    ///
    /// They must survive a restart on the same data: tokens of service accounts are signed by one of the keys.
    pub(crate) fn in_folder(data: &Path) -> Result<Self, Error> {
        let folder = data.join(FOLDER);
        if !folder.is_dir() {
            // Made under another name first, so that an interrupted start leaves all files or none.
            let partial = data.join("pki.partial");
            if partial.is_dir() {
                fs::remove_dir_all(&partial).tried("delete", &partial)?;
            }
            fs::DirBuilder::new().mode(0o700).create(&partial).tried("create", &partial)?;
            for (name, text) in generate().map_err(|error| Error::Certificate(error.to_string()))? {
                write_private(&partial.join(name), &text)?;
            }
            fs::rename(&partial, &folder).tried("rename", &partial)?;
        }
        Self::read(data)
    }

    /// The certificates in the data folder.
    pub(crate) fn read(data: &Path) -> Result<Self, Error> {
        let folder = data.join(FOLDER);
        let read = |name: &str| fs::read_to_string(folder.join(name)).tried("read", folder.join(name));
        let client = |name: &str| -> Result<ClientCertificate, Error> {
            Ok(ClientCertificate {
                certificate: read(&format!("{name}.crt"))?,
                key: read(&format!("{name}.key"))?,
            })
        };
        Ok(Self {
            ca_pem: read("ca.crt")?,
            admin: client("admin")?,
            controller_manager: client("kube-controller-manager")?,
        })
    }
}

/// File names and contents. The CA's key is not among them: after these nothing is signed.
fn generate() -> Result<Vec<(String, String)>, rcgen::Error> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name = name("control-plane CA", None);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut files = vec![("ca.crt".to_owned(), ca.pem())];

    let mut issue = |file: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose| -> Result<(), rcgen::Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        files.push((format!("{file}.crt"), params.signed_by(&key, &ca)?.pem()));
        files.push((format!("{file}.key"), key.serialize_pem()));
        Ok(())
    };
    let names = [
        "127.0.0.1",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned);
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name = name("kube-apiserver", None);
    issue("kube-apiserver", server, ExtendedKeyUsagePurpose::ServerAuth)?;
    // Users and groups as Kubernetes knows them: the common name and the organizations of a client certificate.
    for (file, user, group) in [
        ("admin", "control-plane-admin", Some("system:masters")),
        ("kube-controller-manager", "system:kube-controller-manager", None),
    ] {
        let mut client = CertificateParams::default();
        client.distinguished_name = name(user, group);
        issue(file, client, ExtendedKeyUsagePurpose::ClientAuth)?;
    }

    let service_account = KeyPair::generate()?;
    files.push(("service-account.key".to_owned(), service_account.serialize_pem()));
    files.push(("service-account.pub".to_owned(), service_account.public_key_pem()));
    Ok(files)
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_once_and_private() {
        let data = tempfile::tempdir().unwrap();
        let first = Pki::in_folder(data.path()).unwrap();
        let again = Pki::in_folder(data.path()).unwrap();
        assert_eq!(first.ca_pem, again.ca_pem, "a restart on the same data keeps the authority");
        assert_eq!(first.admin.key, again.admin.key);
        for file in fs::read_dir(data.path().join(FOLDER)).unwrap() {
            let file = file.unwrap();
            assert_eq!(
                file.metadata().unwrap().permissions().mode() & 0o077,
                0,
                "{:?} can be read by others",
                file.file_name()
            );
        }
    }

    #[test]
    fn an_interrupted_start_does_not_count() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pki.partial")).unwrap();
        fs::write(data.path().join("pki.partial/ca.crt"), "half").unwrap();
        assert!(Pki::in_folder(data.path()).unwrap().ca_pem.contains("BEGIN CERTIFICATE"));
    }
}
