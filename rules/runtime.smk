rule runtime:
    input:
        model="resources/models/{model}",
        checkpoint=ask("checkpoint"),
    output:
        "results/{model}/{calibration}/{variant}/runtime/{workload}.json",
    log:
        "logs/{model}/{calibration}/{variant}/runtime/{workload}.log",
    benchmark:
        "results/{model}/benchmarks/runtime/{calibration}/{variant}/{workload}.tsv"
    conda:
        "../envs/rac.yaml"
    threads: ask("every_thread")  # alone on the machine, so that nothing else is in the times
    resources:
        gpu=ask("gpu"),
        mem_mb=memory("runtime"),
        runtime=minutes("runtime"),
        cpus_per_task=ask("threads"),
    params:
        spec=spec("workloads", "workload"),
        dtype=ask("dtype"),
        code=stage("runtime"),
    shell:
        "python -m rac --gpus {resources.gpu} runtime --spec {params.spec:q} --dtype {params.dtype}"
        " --model {input.model:q} --checkpoint {input.checkpoint:q} --output {output:q}"
        " > {log:q} 2>&1"
