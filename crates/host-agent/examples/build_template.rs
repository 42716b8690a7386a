//! Scratch.
#![allow(clippy::print_stdout)]
use std::sync::{Arc, Mutex};
use std::time::Instant;
use host_agent::template::*;
struct P(Mutex<(Instant, f32)>);
impl Progress for P {
    fn step(&self, step: Step) { let mut g = self.0.lock().unwrap(); println!("{:?} STEP {step}", g.0.elapsed()); g.1 = -1.0; }
    fn fraction(&self, f: f32) { let mut g = self.0.lock().unwrap(); if f - g.1 > 0.1 || f < g.1 { println!("{:?}   {f}", g.0.elapsed()); g.1 = f; } }
    fn detail(&self, line: &str) { if line.starts_with("I:") || line.starts_with("W:") || line.starts_with("E:") { println!("   {line}"); } }
}
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let agent: &'static [u8] = Box::leak(std::fs::read(&args[2]).unwrap().into_boxed_slice());
    let store = TemplateStore::open(std::path::Path::new(&args[1]), agent).unwrap();
    for name in &args[3..] {
        let (name, force) = match name.strip_suffix('!') { Some(n) => (n, Force::Yes), None => (name.as_str(), Force::No) };
        let t = Instant::now();
        match store.build(&name.parse().unwrap(), force, Arc::new(P(Mutex::new((t, 0.0)))), Default::default()).await {
            Ok(t) => println!("{t:#?}"),
            Err(e) => println!("ERR {e}\n{e:?}"),
        }
        println!("took {:?}", t.elapsed());
    }
}
