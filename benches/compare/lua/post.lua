-- A POST of 1 KiB.
wrk.method = "POST"
wrk.body = string.rep("p", 1024)
wrk.headers["Content-Type"] = "text/plain"
