use crate::{
    Error,
    websocket::{Connection, Frame},
};

impl Connection {
    /// Sends a message: returns once it is handed to the network.
    ///
    /// # Errors
    /// `unavailable` once the connection is closed.
    pub fn send(&self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Text(text) => self.send_text(&text),
            Frame::Binary(content) => self.send_binary(&content),
        }
    }
}
