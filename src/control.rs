//! Our own connection to the server.
