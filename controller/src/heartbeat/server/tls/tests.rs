use super::*;
use rcgen::{CertifiedKey as Generated, generate_simple_self_signed};
use tempfile::TempDir;

fn write(dir: &TempDir, name: &str) -> (PathBuf, PathBuf) {
    let Generated { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
    let (cert_path, key_path) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    std::fs::write(&cert_path, cert.pem()).unwrap();
    std::fs::write(&key_path, signing_key.serialize_pem()).unwrap();
    (cert_path, key_path)
}

fn served(files: &CertificateFiles) -> Vec<u8> {
    files.served.0.read().unwrap().certified.cert[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_broken_one_is_not() {
    let dir = TempDir::new().unwrap();
    let (cert, key) = write(&dir, "one.test");
    let files = CertificateFiles::load(&cert, &key).await.unwrap();
    files.acceptor().unwrap();
    let first = served(&files);
    assert!(!files.look().await.unwrap(), "nothing changed");

    write(&dir, "two.test");
    assert!(files.look().await.unwrap());
    let second = served(&files);
    assert_ne!(first, second);

    let good_key = std::fs::read(&key).unwrap();
    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    let error = files.look().await.unwrap_err();
    assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    std::fs::write(&key, good_key).unwrap();

    // A certificate without its key: the moment between two writes.
    let other = TempDir::new().unwrap();
    let (other_cert, _) = write(&other, "three.test");
    std::fs::copy(other_cert, &cert).unwrap();
    assert!(matches!(files.look().await, Err(TlsError::Unfit { .. })));
    std::fs::remove_file(&cert).unwrap();
    assert!(matches!(files.look().await, Err(TlsError::Read { .. })));
    assert_eq!(served(&files), second);
}

#[tokio::test]
async fn files_that_hold_something_else_are_named() {
    let dir = TempDir::new().unwrap();
    let (cert, key) = write(&dir, "one.test");
    for (cert, key, named) in [(&key, &key, &key), (&cert, &cert, &cert)] {
        let error = CertificateFiles::load(cert, key).await.err().expect("it was taken").to_string();
        assert!(error.contains(named.to_str().unwrap()), "{error}");
    }
}
