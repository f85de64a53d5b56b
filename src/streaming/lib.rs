//! Remote-command streams: SPDY/3.1, WebSocket channels, port-forward tunnels
