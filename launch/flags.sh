# shellcheck shell=bash
# Settings that XLA and NCCL read when they start, with the reason for each. Sourced by the other
# launchers; what is set already stays.
#
#   source launch/flags.sh gpu|tpu|cpu

# add VARIABLE FLAG...: append flags that VARIABLE does not name yet.
add() {
  local variable=$1 flag
  shift
  for flag in "$@"; do
    [[ ${!variable:-} == *"${flag%%=*}"* ]] || export "$variable=${!variable:-}${!variable:+ }$flag"
  done
}

case ${1:-cpu} in
  gpu)
    # All-gathers of the next layer's weights run under the matmuls of this one; without it fsdp
    # waits at every layer.
    add XLA_FLAGS --xla_gpu_enable_latency_hiding_scheduler=true
    # One collective of many small tensors (norms, biases) instead of one each.
    add XLA_FLAGS --xla_gpu_all_gather_combine_threshold_bytes=134217728 \
      --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728
    # NCCL's user buffers: collectives between the GPUs of a host without copies into its own.
    export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-1}
    # A process that has lost a peer ends instead of waiting for ever; the scheduler then starts the
    # job again from its checkpoint.
    export NCCL_ASYNC_ERROR_HANDLING=${NCCL_ASYNC_ERROR_HANDLING:-1}
    ;;
  tpu)
    # Collectives of weights fuse with the matmuls that use them.
    add LIBTPU_INIT_ARGS --xla_tpu_enable_async_collective_fusion=true \
      --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    ;;
esac
