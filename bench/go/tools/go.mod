module tailproxy.dev/bench/tools

go 1.26.6
