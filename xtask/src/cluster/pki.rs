//! The cluster's certificates: one authority, made anew with each cluster and gone with it. Made in
//! process, so that no key passes through another program's arguments.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::{API_SERVER_PORT, API_SERVICE_IP, NODE, NODE_IP};

/// Who a certificate names, in Kubernetes' reading: the common name is the user, the organisation its
/// group.
struct Subject {
    file: &'static str,
    user: &'static str,
    group: Option<&'static str>,
}

const ADMIN: &str = "admin";

/// Those who call the API server, each with a kubeconfig.
const CLIENTS: [Subject; 5] = [
    Subject { file: ADMIN, user: "funcatron-admin", group: Some("system:masters") },
    Subject { file: "kube-controller-manager", user: "system:kube-controller-manager", group: None },
    Subject { file: "kube-scheduler", user: "system:kube-scheduler", group: None },
    Subject { file: "kube-proxy", user: "system:kube-proxy", group: None },
    Subject { file: "kubelet", user: "system:node:funcatron-node", group: Some("system:nodes") },
];

/// Those whom the API server itself calls.
const API_SERVER_AS_CLIENT: [Subject; 2] = [
    Subject { file: "apiserver-etcd-client", user: "kube-apiserver", group: None },
    Subject { file: "apiserver-kubelet-client", user: "kube-apiserver", group: Some("system:masters") },
];

/// Where an administrator's kubeconfig lies.
pub(super) fn admin_kubeconfig(run: &Path) -> PathBuf {
    run.join("kubeconfig").join(ADMIN)
}

/// Writes every certificate, key and kubeconfig below `run`.
pub(super) fn write(run: &Path) -> Result<()> {
    let pki = run.join("pki");
    for folder in [pki.clone(), run.join("kubeconfig")] {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("close {}", folder.display()))?;
    }
    let (authority, certificate) = authority()?;
    secret(&pki.join("ca.crt"), &certificate)?;
    // The controller manager signs certificate requests with it.
    secret(&pki.join("ca.key"), &authority.key().serialize_pem())?;

    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let api = [&names[..], &["localhost", "127.0.0.1", NODE_IP, API_SERVICE_IP]].concat();
    pair(&pki, "apiserver", server(&api)?, &authority)?;
    pair(&pki, "etcd", server(&["localhost", "127.0.0.1"])?, &authority)?;
    pair(&pki, "kubelet-server", server(&[NODE, NODE_IP])?, &authority)?;
    for subject in &API_SERVER_AS_CLIENT {
        pair(&pki, subject.file, client(subject)?, &authority)?;
    }
    for subject in &CLIENTS {
        pair(&pki, subject.file, client(subject)?, &authority)?;
        secret(&run.join("kubeconfig").join(subject.file), &kubeconfig(&pki, subject.file))?;
    }
    let tokens = KeyPair::generate().context("generate the key of service account tokens")?;
    secret(&pki.join("service-account.key"), &tokens.serialize_pem())?;
    secret(&pki.join("service-account.pub"), &tokens.public_key_pem())
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "funcatron test cluster");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().context("generate the authority's key")?;
    let certificate = params.self_signed(&key).context("sign the authority's certificate")?;
    Ok((Issuer::new(params, key), certificate.pem()))
}

fn server(names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).context("name a server's certificate")?;
    // etcd's gateway calls etcd itself with its server's certificate.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn client(subject: &Subject) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("name a client's certificate")?;
    params.distinguished_name.push(DnType::CommonName, subject.user);
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn pair(pki: &Path, file: &str, params: CertificateParams, authority: &Issuer<'_, KeyPair>) -> Result<()> {
    let key = KeyPair::generate().with_context(|| format!("generate the key of {file}"))?;
    let mut params = params;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&key, authority).with_context(|| format!("sign for {file}"))?;
    secret(&pki.join(format!("{file}.crt")), &certificate.pem())?;
    secret(&pki.join(format!("{file}.key")), &key.serialize_pem())
}

fn kubeconfig(pki: &Path, file: &str) -> String {
    let pki = pki.display();
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: funcatron\n\
         clusters:\n\
         - name: funcatron\n  cluster: {{server: \"https://{NODE_IP}:{API_SERVER_PORT}\", certificate-authority: {pki}/ca.crt}}\n\
         users:\n\
         - name: {file}\n  user: {{client-certificate: {pki}/{file}.crt, client-key: {pki}/{file}.key}}\n\
         contexts:\n\
         - name: funcatron\n  context: {{cluster: funcatron, user: {file}}}\n"
    )
}

fn secret(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::Write::write_all(
        &mut file.with_context(|| format!("create {}", path.display()))?,
        text.as_bytes(),
    )
    .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_the_user_of_its_node() {
        let kubelet = CLIENTS.iter().find(|subject| subject.file == "kubelet").unwrap();
        assert_eq!(kubelet.user, format!("system:node:{NODE}"));
    }

    #[test]
    fn keys_and_kubeconfigs_are_for_their_owner_alone() {
        let run = tempfile::tempdir().unwrap();
        write(run.path()).unwrap();
        for file in ["pki/ca.key", "pki/kubelet.key", "kubeconfig/admin"] {
            let mode = fs::metadata(run.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{file}");
        }
    }
}
