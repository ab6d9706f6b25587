rule sources:
    input:
        model="resources/models/{model}",
        dataset=ask("source_dataset"),
        traces=ask("source_traces"),
        other=ask("source_other_model"),
    output:
        sequences="results/{model}/sources/{source}/sequences.safetensors",
        record="results/{model}/sources/{source}/sequences.json",
    log:
        "logs/{model}/sources/{source}.log",
    benchmark:
        "results/{model}/benchmarks/sources/{source}.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        spec=spec("sources", "source"),
        chat=ask("source_chat"),
        traces=lambda wildcards, input: [f"--traces={path}" for path in input.traces],
        other=lambda wildcards, input: [f"--other-model={path}" for path in input.other],
        code=ask("sources_code"),
    shell:
        "python -m rac sources --spec {params.spec:q} --name {wildcards.source} --model {input.model:q}"
        " --chat {params.chat:q} --dataset {input.dataset:q} {params.traces:q} {params.other:q}"
        " --code {params.code} --output {output.sequences:q} > {log:q} 2>&1"
