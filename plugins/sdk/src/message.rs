use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Message, json};

impl Message {
    /// Reads the message's fields.
    ///
    /// # Errors
    /// `invalid-input`, with a message that names the field. A good schema makes it rare.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(&self.body).map_err(|e| Error::invalid_input(format!("{}: {e}", self.kind)))
    }

    /// Answers the client, as [`reply`](crate::reply) does.
    ///
    /// # Errors
    /// `reply` is no JSON object, or it is over the host's limit.
    pub fn reply(&self, reply: &impl Serialize) -> Result<(), Error> {
        crate::reply(reply)
    }
}
