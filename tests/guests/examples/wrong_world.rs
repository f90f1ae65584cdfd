//! A command, which is a component of another world.

fn main() {
    println!("not a handler");
}
