//! An OCI archive made from busybox-static, so that no registry is needed.

use std::path::Path;

use sha2::{Digest, Sha256};

const APPLETS: [&str; 12] =
    ["sh", "sleep", "cat", "echo", "true", "false", "touch", "id", "ls", "httpd", "hostname", "wc"];

/// Writes an archive that `ctr images import` takes, holding one image of busybox under `name`.
pub(crate) fn write_busybox(archive: &Path, name: &str) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut layer = Tar::default();
    for dir in ["bin/", "tmp/", "etc/", "proc/", "dev/"] {
        layer.entry(dir, b'5', 0o755, "", &[]);
    }
    layer.entry("bin/busybox", b'0', 0o755, "", &busybox);
    for applet in APPLETS {
        layer.entry(&format!("bin/{applet}"), b'2', 0o777, "busybox", &[]);
    }
    layer.entry("etc/passwd", b'0', 0o644, "", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n");
    let layer = layer.finish();
    let layer_digest = sha256(&layer);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    })
    .to_string();
    let oci = "application/vnd.oci.image.";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": format!("{oci}manifest.v1+json"),
        "config": {"mediaType": format!("{oci}config.v1+json"), "digest": format!("sha256:{}", sha256(config.as_bytes())), "size": config.len()},
        "layers": [{"mediaType": format!("{oci}layer.v1.tar"), "digest": format!("sha256:{layer_digest}"), "size": layer.len()}],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": format!("{oci}manifest.v1+json"), "digest": format!("sha256:{}", sha256(manifest.as_bytes())), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name},
        }],
    })
    .to_string();
    let mut tar = Tar::default();
    tar.entry("oci-layout", b'0', 0o644, "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar.entry("index.json", b'0', 0o644, "", index.as_bytes());
    for blob in [config.as_bytes(), manifest.as_bytes(), &layer] {
        tar.entry(&format!("blobs/sha256/{}", sha256(blob)), b'0', 0o644, "", blob);
    }
    std::fs::write(archive, tar.finish()).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Just enough of ustar.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
