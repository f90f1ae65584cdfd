//! Builds the test plugins and the template.

#[path = "../host/guests.rs"]
mod guests;

fn main() {
    let folder = guests::build(&["reverie-test-guests"], true);
    println!("cargo::rustc-env=TEST_GUESTS={}", folder.join("examples").display());
    let folder =
        guests::build(&["reverie-plugin-template", "reverie-plugin-sr", "reverie-plugin-dream"], false);
    println!("cargo::rustc-env=PLUGINS={}", folder.display());
}
