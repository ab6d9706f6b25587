rule requests:
    input:
        model="resources/models/{model}",
        dataset=ask("eval_dataset"),
        task=ask("eval_task_file"),
    output:
        requests="results/{model}/requests/{eval}/requests.jsonl.zst",
        record="results/{model}/requests/{eval}/requests.json",
    log:
        "logs/{model}/requests/{eval}.log",
    benchmark:
        "results/{model}/benchmarks/requests/{eval}.tsv"
    conda:
        "../envs/rac.yaml"
    params:
        task=ask("eval_task"),
        chat=ask("eval_chat"),
        code=stage("requests"),
    shell:
        "python -m rac requests --task {params.task:q} --dataset {input.dataset:q}"
        " --model {input.model:q} --chat {params.chat:q} --output {output.requests:q} > {log:q} 2>&1"
