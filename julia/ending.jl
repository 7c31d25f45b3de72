# This Julia ends, with the processes that it compiles in, when the Python that started it has ended, in whatever way.

# Standard input is a pipe whose other end nobody holds then. Python started a session for this, whose processes those are.
if Sys.isunix() && get(ENV, "PYSCIML_OWN_SESSION", "") == "yes"
    @async (read(stdin); ccall(:kill, Cint, (Cint, Cint), 0, 9))
end
