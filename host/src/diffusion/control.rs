//! Who a picture is for, and when it has its turn.

use std::time::{Duration, Instant};

use image::RgbImage;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::execution::{Lease, Ticket};

/// Who a picture is for.
pub trait Control: Send + Sync + 'static {
    fn priority(&self) -> i64;
    fn stopped(&self) -> bool;
    /// Whether it is of the background, and whether it has to wait because somebody else is not.
    fn background(&self) -> bool;
    fn yields(&self) -> bool;
    /// The job that it is for.
    fn job(&self) -> Option<Uuid>;
    /// It had to wait for so long.
    fn waited(&self, time: Duration);
    /// `fraction` of the whole, 0 to 1, with fields for the client.
    fn progress(&self, fraction: f32, detail: Map<String, Value>);
    /// Whether pictures of the steps are wanted.
    fn wants_previews(&self) -> bool;
    fn preview(&self, step: usize, picture: RgbImage);
}

/// The device for one step, when it is `control`'s turn; none when it was stopped.
pub fn lease<'a>(ticket: &Ticket<'a>, control: &dyn Control) -> Option<Lease<'a>> {
    let began = Instant::now();
    let lease = ticket.lease_unless(|| control.yields(), || control.priority(), || control.stopped());
    control.waited(began.elapsed());
    lease
}
