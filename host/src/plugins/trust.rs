//! Which files may be plugins, where the operator pins them: by their SHA-256 digests, or by who signed them.

use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};
use sha2::{Digest, Sha256};

use crate::config::PluginRuntime;

/// What a digest begins with.
const SCHEME: &str = "sha256:";

/// Added to the name of a component, the name of its signature's file.
const SIGNATURE: &str = ".minisig";

/// The digest of a file's content: `sha256:` and 64 hexadecimal digits.
pub fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{SCHEME}{hex}")
}

/// The file of a component's signature.
pub fn signature_of(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(SIGNATURE);
    name.into()
}

/// The component that a file is the signature of, where it is one by its name.
pub fn signed_by(path: &Path) -> Option<PathBuf> {
    Some(path.to_str()?.strip_suffix(SIGNATURE)?.into())
}

/// Which files the operator trusts: all, where he names no digest and no key.
pub struct Trust {
    digests: Vec<String>,
    keys: Vec<PublicKey>,
}

impl Trust {
    /// # Errors
    /// A message that names the key of the configuration and what is accepted.
    pub fn new(config: &PluginRuntime) -> Result<Self, String> {
        let digests: Vec<String> =
            config.allowed_digests.iter().map(|digest| digest.to_ascii_lowercase()).collect();
        let valid = |digest: &str| {
            let hex = digest.strip_prefix(SCHEME);
            hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        if let Some(wrong) = digests.iter().find(|digest| !valid(digest)) {
            return Err(format!(
                "plugin_runtime.allowed_digests: '{wrong}' is not a digest; accepted are {SCHEME} and 64 hexadecimal digits, as \
                 `reverie plugins FILE` shows them"
            ));
        }
        let key = |key: &String| {
            PublicKey::from_base64(key).map_err(|error| {
                format!(
                    "plugin_runtime.minisign_keys: '{key}' is not a public key of minisign ({error}); accepted is the second \
                     line of its .pub file"
                )
            })
        };
        Ok(Self { digests, keys: config.minisign_keys.iter().map(key).collect::<Result<_, _>>()? })
    }

    /// Whether files are signed at all.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether a file may be a plugin. `signature` is the text of the file beside it, if there is one.
    ///
    /// # Errors
    /// A message with the digest and what would let it in.
    pub fn check(&self, content: &[u8], digest: &str, signature: Option<&str>) -> Result<(), String> {
        if self.digests.is_empty() && self.keys.is_empty() || self.digests.iter().any(|one| one == digest) {
            return Ok(());
        }
        let mut error = format!("its digest {digest} is not one of plugin_runtime.allowed_digests");
        if self.has_keys() {
            let why = match signature.map(Signature::decode) {
                None => "it has no signature beside it (FILE.wasm.minisig)".to_owned(),
                Some(Err(why)) => format!("its signature can't be read: {why}"),
                Some(Ok(signature)) => {
                    if self.keys.iter().any(|key| key.verify(content, &signature, false).is_ok()) {
                        return Ok(());
                    }
                    "its signature is by none of plugin_runtime.minisign_keys".to_owned()
                }
            };
            error = format!("{error}, and {why}");
        }
        Err(format!("{error}: add the digest there if you trust the file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    const CONTENT: &[u8] = b"a component";
    const KEY: &str = "RWRyZXZlcmllMajKMIuRoDaClmJ3ni1yaKNCzQn14UM7WRSdsRa1M82v";
    const OTHER_KEY: &str = "RWRyZXZlcmllMiH4ZLYsP6Se0Ke/ac2hnihli+X98BGTgRRDs4zzY6aJ";
    const SIGNATURE: &str = "untrusted comment: signature\n\
        RURyZXZlcmllMdMk622wt7AMw7yafdTxKsusSsO4BcpPnRV/OTi3TRRuuPRjXugaul6JyFJAHGgJDm6blJN2TQ3EC7bRtT3GRwg=\n\
        trusted comment: test\n\
        hMiIkx6vRLUwwijm1+0EMaLgDfR89qB7WxbbVCx8IiMBlwFEZZoWs1bEamKZnkDrPM7c59nUBwXBwnux4rWPAA==\n";

    fn trust(digests: &[&str], keys: &[&str]) -> Result<Trust, String> {
        let set = vec![
            format!("plugin_runtime.allowed_digests={digests:?}"),
            format!("plugin_runtime.minisign_keys={keys:?}"),
        ];
        Trust::new(&config::load(&Sources { set, ..Sources::default() })?.plugin_runtime)
    }

    #[test]
    fn a_file_is_pinned_by_its_digest() {
        let digest = digest(CONTENT);
        assert_eq!(digest, "sha256:626d0ce33ca550dc06351c3ea7b698be557ff5d35bf25edc44221b561838594c");
        assert!(trust(&[], &[]).unwrap().check(CONTENT, &digest, None).is_ok(), "nothing is pinned");
        assert!(trust(&[&digest.to_ascii_uppercase()], &[]).unwrap().check(CONTENT, &digest, None).is_ok());
        let other = self::digest(b"another");
        let error = trust(&[&other], &[]).unwrap().check(CONTENT, &digest, None).unwrap_err();
        assert!(error.contains(&digest) && error.contains("plugin_runtime.allowed_digests"), "{error}");
        for wrong in ["sha256:12", &digest[7..], "md5:00", &digest.replace(':', "")] {
            let error = trust(&[wrong], &[]).err().unwrap();
            assert!(error.contains("allowed_digests") && error.contains("64 hexadecimal"), "{error}");
        }
    }

    #[test]
    fn a_file_is_pinned_by_its_signature() {
        let check = |keys: &[&str], content: &[u8], signature| {
            trust(&[], keys).unwrap().check(content, &digest(content), signature)
        };
        assert_eq!(check(&[OTHER_KEY, KEY], CONTENT, Some(SIGNATURE)), Ok(()));
        for (keys, content, signature, why) in [
            (&[KEY][..], CONTENT, None, "no signature beside it"),
            (&[KEY], CONTENT, Some("nonsense"), "can't be read"),
            (&[KEY], b"another", Some(SIGNATURE), "by none of plugin_runtime.minisign_keys"),
            (&[OTHER_KEY], CONTENT, Some(SIGNATURE), "by none of plugin_runtime.minisign_keys"),
        ] {
            let error = check(keys, content, signature).unwrap_err();
            assert!(error.contains(why) && error.contains(&digest(content)), "{error}");
        }
        let digest = digest(CONTENT);
        assert_eq!(
            trust(&[&digest], &[OTHER_KEY]).unwrap().check(CONTENT, &digest, None),
            Ok(()),
            "either is enough"
        );
        assert!(trust(&[], &["nonsense"]).err().unwrap().contains("minisign_keys"));
        let file = Path::new("plugins/one.wasm");
        assert_eq!(signed_by(&signature_of(file)).as_deref(), Some(file));
        assert_eq!(signed_by(file), None);
    }
}
