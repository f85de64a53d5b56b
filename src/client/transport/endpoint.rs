//! Where an API server is and what we show it.

use std::{fmt, path::PathBuf};

use http::Uri;

/// Everything that is needed to reach a server. Files are read again for each new connection, so that
/// renewed certificates are taken up.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `https://host:port`, with a path if the server has one; `http` for tests.
    pub server: Uri,
    /// What the server's certificate must chain to; the system's bundle if not given.
    pub ca: Option<Pem>,
    /// The name to verify, if it is not the URL's host.
    pub tls_server_name: Option<String>,
    /// Takes any server certificate. For experiments.
    pub insecure: bool,
    pub credentials: Credentials,
    /// The namespace of requests that name none.
    pub namespace: Option<String>,
    pub user_agent: String,
}

impl Endpoint {
    #[must_use]
    pub fn new(server: Uri, ca: Option<Pem>, credentials: Credentials) -> Self {
        Self {
            server,
            ca,
            tls_server_name: None,
            insecure: false,
            credentials,
            namespace: None,
            user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }
}

/// Who we are to the server.
#[derive(Clone, Debug)]
pub enum Credentials {
    None,
    Certificate {
        certificate: Pem,
        key: Pem,
    },
    Token(Secret),
    /// Read again every minute: projected tokens are rotated in place.
    TokenFile(PathBuf),
}

/// PEM text, or the file that holds it.
#[derive(Clone)]
pub enum Pem {
    File(PathBuf),
    Data(Vec<u8>),
}

/// Never the content: it may be a key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Data(data) => write!(f, "Data({} bytes)", data.len()),
        }
    }
}

/// Text that is not printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
