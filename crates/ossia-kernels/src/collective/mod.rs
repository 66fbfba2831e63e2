//! What the ranks of a model that is cut over several devices tell each other: the sum of their parts, and their columns side by
//! side, with the same bits on every rank.

mod meeting;
#[cfg(feature = "cuda")]
mod nccl;

use std::sync::Arc;

use candle_core::Tensor;

use self::meeting::Meeting;
#[cfg(feature = "cuda")]
use self::nccl::NcclRanks;
use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::Form;
use crate::{KernelError, Result};

/// One rank's way to the others. Each rank computes in a thread of its own, and all make the same calls in the same order.
#[derive(Clone, Debug)]
pub struct Communicator {
    rank: usize,
    size: usize,
    link: Link,
}

#[derive(Clone, Debug)]
enum Link {
    /// There are no others.
    Alone,
    /// Tensors on the CPU change hands in memory.
    Memory(Arc<Meeting>),
    #[cfg(feature = "cuda")]
    Nccl(Arc<NcclRanks>),
}

impl Communicator {
    /// That of a model which is not cut.
    pub const fn alone() -> Self {
        Self { rank: 0, size: 1, link: Link::Alone }
    }

    /// Connects ranks that compute on `backends`: all on the CPU, or each with our kernels on a CUDA device of its own.
    ///
    /// # Errors
    /// [`KernelError::Ranks`] if the backends are neither, or NCCL is missing or refuses.
    pub fn connect(backends: &[&Backend]) -> Result<Vec<Self>> {
        let size = backends.len();
        if size == 1 {
            return Ok(vec![Self::alone()]);
        }
        let link = if backends.iter().all(|backend| backend.device().is_cpu()) {
            Link::Memory(Arc::new(Meeting::new(size)))
        } else {
            Self::link_on_devices(backends)?
        };
        Ok((0..size).map(|rank| Self { rank, size, link: link.clone() }).collect())
    }

    fn link_on_devices(backends: &[&Backend]) -> Result<Link> {
        #[cfg(feature = "cuda")]
        if let Some(kernels) = backends
            .iter()
            .map(|backend| match backend.form() {
                Form::Cuda(kernels) => Some(kernels.clone()),
                _ => None,
            })
            .collect()
        {
            return Ok(Link::Nccl(Arc::new(NcclRanks::connect(kernels)?)));
        }
        let names: Vec<_> = backends.iter().map(|backend| backend.name()).collect();
        let message = format!(
            "takes CUDA devices with our kernels, or the CPU; these ranks compute on {}",
            names.join(" and ")
        );
        Err(KernelError::Ranks { message })
    }

    /// Which of the ranks this is, from 0 on.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The sum over all ranks of their f32 tensors of one shape.
    ///
    /// # Errors
    /// [`KernelError::GaveUp`] if another rank did; [`KernelError::Ranks`] or [`KernelError::Candle`] if the device refuses.
    pub fn all_reduce(&self, part: Tensor) -> Result<Tensor> {
        match &self.link {
            Link::Alone => Ok(part),
            Link::Memory(meeting) => {
                // In the order of the ranks on each of them, so that all have the same bits.
                let mut parts = meeting.exchange(self.rank, part)?.into_iter();
                let first = parts.next().ok_or(KernelError::GaveUp)?;
                parts.try_fold(first, |sum, part| Ok((sum + part)?))
            }
            #[cfg(feature = "cuda")]
            Link::Nccl(ranks) => ranks.all_reduce(self.rank, &part),
        }
    }

    /// The columns of all ranks side by side: f32 `[rows, cols]` of each to `[rows, size * cols]`.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    pub fn all_gather(&self, part: Tensor) -> Result<Tensor> {
        match &self.link {
            Link::Alone => Ok(part),
            Link::Memory(meeting) => Ok(Tensor::cat(&meeting.exchange(self.rank, part)?, 1)?),
            #[cfg(feature = "cuda")]
            Link::Nccl(ranks) => ranks.all_gather(self.rank, &part),
        }
    }

    /// Says that this rank will not come to what the others wait for: they get [`KernelError::GaveUp`], now and from now on.
    pub fn give_up(&self) {
        match &self.link {
            Link::Alone => {}
            Link::Memory(meeting) => meeting.give_up(),
            #[cfg(feature = "cuda")]
            Link::Nccl(ranks) => ranks.give_up(),
        }
    }

    /// Begins anew after some rank gave up, when none of them is inside a call. On CUDA devices that cannot be, and they stay apart.
    pub fn begin_anew(&self) {
        if let Link::Memory(meeting) = &self.link {
            meeting.begin_anew();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// What `work` gives on each of `size` ranks on the CPU, in threads of their own.
    fn on_ranks<T: Send>(size: usize, work: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
        let cpu = Backend::cpu();
        let ranks = Communicator::connect(&vec![&cpu; size]).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn row(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().reshape((1, values.len())).unwrap()
    }

    #[test]
    fn every_rank_has_the_same_sum_again_and_again() {
        // Three numbers whose sum hangs on the order.
        let parts = [1e8f32, 1.25, -1e8];
        let sums = on_ranks(3, |ranks| {
            let sum = |round: usize| {
                let part = row(&[parts[ranks.rank()], (round * ranks.rank()) as f32]);
                ranks.all_reduce(part).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            (0..200).map(sum).collect::<Vec<_>>()
        });
        for sums in sums {
            for (round, sum) in sums.into_iter().enumerate() {
                assert_eq!(sum, [(1e8f32 + 1.25) - 1e8, 3.0 * round as f32]);
            }
        }
    }

    #[test]
    fn columns_stand_in_the_order_of_the_ranks() {
        let gathered = on_ranks(2, |ranks| {
            let values = [[0f32, 1.0], [2.0, 3.0]].map(|row| row.map(|x| x + 10.0 * ranks.rank() as f32));
            let all = ranks.all_gather(Tensor::new(&values, &Device::Cpu).unwrap()).unwrap();
            all.to_vec2::<f32>().unwrap()
        });
        assert_eq!(gathered[0], [[0.0, 1.0, 10.0, 11.0], [2.0, 3.0, 12.0, 13.0]]);
        assert_eq!(gathered[0], gathered[1]);
    }

    #[test]
    fn whoever_waits_for_a_rank_that_gave_up_is_told() {
        let told = on_ranks(3, |ranks| {
            if ranks.rank() == 1 {
                ranks.give_up();
            }
            let before =
                ranks.rank() == 1 || matches!(ranks.all_reduce(row(&[1.0])), Err(KernelError::GaveUp));
            before && matches!(ranks.all_gather(row(&[1.0])), Err(KernelError::GaveUp))
        });
        assert_eq!(told, [true; 3]);
        let cpu = Backend::cpu();
        let ranks = Communicator::connect(&[&cpu, &cpu]).unwrap();
        ranks[1].give_up();
        ranks[0].begin_anew();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| ranks[1].all_reduce(row(&[1.0])).is_ok());
            assert!(ranks[0].all_reduce(row(&[1.0])).is_ok());
            assert!(other.join().unwrap());
        });
    }
}
