//! Pinned threads: a process of its own, since threads are pinned for good.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ossia_kernels::{ComputeType, Linear, Matrix, WeightBytes};

/// Cores that a thread may run on, as the kernel writes them.
fn allowed(task: &str) -> String {
    let status = std::fs::read_to_string(format!("{task}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    line.trim().to_owned()
}

#[test]
fn the_thread_of_a_pass_and_its_helpers_get_the_cores_in_turn() {
    let all = allowed("/proc/self");
    let cores = ossia_kernels::parse_list(&all).unwrap();
    // The last one first, so that it is not where a thread is by default.
    let pinned: Vec<usize> = cores.iter().rev().copied().take(2).collect();
    ossia_kernels::pin_threads(pinned.clone()).unwrap();
    assert!(ossia_kernels::pin_threads(pinned.clone()).is_err(), "twice");

    let pass = std::thread::spawn(|| {
        ossia_kernels::set_num_threads(2);
        ossia_kernels::pin_pass_thread();
        let (rows, cols) = (1024, 1024);
        let weight =
            Matrix::new(WeightBytes::owned(vec![0; 2 * rows * cols]), DType::BF16, rows, cols).unwrap();
        let layer = Linear::new(Arc::new(weight), None, ComputeType::F32).unwrap();
        layer.forward(&Tensor::zeros((8, cols), DType::F32, &Device::Cpu).unwrap()).unwrap();
        allowed("/proc/thread-self")
    });
    assert_eq!(pass.join().unwrap(), pinned[0].to_string());

    let is_helper =
        |task: &String| std::fs::read_to_string(format!("{task}/comm")).unwrap().trim() == "ossia-kernels";
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let tasks = tasks.map(|task| task.unwrap().path().to_str().unwrap().to_owned());
    let helpers: Vec<String> = tasks.filter(is_helper).map(|task| allowed(&task)).collect();
    assert_eq!(helpers, [pinned[1 % pinned.len()].to_string()]);
    assert_eq!(allowed("/proc/thread-self"), all, "this thread runs no pass");
}
