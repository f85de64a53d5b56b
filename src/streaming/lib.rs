//! Remote-command streams: what clients speak (WebSocket channels and tunnels), what container runtimes speak
//! (SPDY/3.1), and the ways between them.
//!
//! ```text
//!   kubectl exec ── WebSocket v5 ──▶ API server: translate ── SPDY ──▶ kubelet: splice ── SPDY ──▶ runtime
//!   kubectl port-forward ── SPDY in WebSocket ──▶ tunnel ── SPDY ──▶ splice ── SPDY ──▶ runtime
//! ```
//!
//! [`serve`] is the socket of both servers. Nothing else here starts a task: each way is one future, which ends when
//! either side does.

pub mod channels;
pub mod http;
mod pour;
pub mod serve;
pub mod socket;
pub mod spdy;
mod splice;
pub mod tls;
mod translate;
mod tunnel;
pub mod websocket;

pub use pour::pour;
pub use splice::splice;
pub use translate::{Wanted, translate};
pub use tunnel::tunnel;
