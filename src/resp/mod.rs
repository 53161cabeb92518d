//! The words of RESP.
